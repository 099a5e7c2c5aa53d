//! ○ `standfast demo`: hot and standby, load, a kill, a failover and the return, on one machine.
//!
//! [`setup`] builds the stage, [`story`] plays on it, [`clients`] are the audience that counts,
//! [`figures`] is what Standfast says of itself, [`scene`] and [`summary`] are what is shown, and
//! [`show`] shows it. Nothing is staged but the kill: the product is the one `run` starts, and the
//! numbers are its own counters and what its clients saw.

mod clients;
mod encore;
mod figures;
mod ingress;
mod scene;
mod setup;
mod show;
mod story;
mod summary;
mod tally;

use std::process::ExitCode;

use clap::Args;

use setup::Stage;
use show::Show;

use super::control::records;
use super::control::text::Paint;
use super::control::text::explain::explain;
use crate::failover::Cause;

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// TLS port users come in on; a free one is taken if it is in use
    #[arg(long, value_name = "N", default_value_t = 8443)]
    pub port: u16,
    /// Requests a second
    #[arg(long, value_name = "N", default_value_t = 800,
        value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub rate: u32,
    /// Stay up afterwards, and print the curl lines to play with
    #[arg(long)]
    pub keep: bool,
}

/// Plays the demo: 0 where the service moved and came back and no request was lost, 1 otherwise.
pub fn demo(options: &Options) -> ExitCode {
    super::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let played = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(perform(options)));
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("standfast demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The failover that was played, as `standfast explain` tells it; nothing if it is not recorded.
fn explained(stage: &Stage, colour: bool) -> Vec<String> {
    let table = stage.running.current.load();
    let records = table.services.iter().flat_map(|service| &service.history.records);
    let failover = records.into_iter().find(|record| record.cause == Cause::Health);
    let clock = records::clock();
    let told = failover.map(|record| explain(record, None, clock, Paint(colour)));
    let hint = "\nthe record of the failover, as `standfast explain` tells it:\n\n";
    told.map(|told| format!("{hint}{told}").lines().map(str::to_owned).collect())
        .unwrap_or_default()
}

async fn perform(options: &Options) -> Result<bool, String> {
    let mut stage = setup::build(options.port)?;
    let mut show = Show::new();
    show.introduce(&stage);
    let report = story::play(&mut stage, &mut show, options.rate).await;
    if let Ok(report) = &report {
        show.print(&summary::lines(report, show.paint));
        show.print(&explained(&stage, show.paint.0));
    }
    let good = report.as_ref().is_ok_and(story::Report::is_good);
    if options.keep {
        if let Err(error) = &report {
            show.print(&[format!("the story ended early: {error}")]);
        }
        encore::play(&mut stage, &show, options.rate).await?;
    }
    stage.running.stop().await;
    report.map(|_| good)
}

//! ● `standfast drill`: how a rehearsal went.

use super::{Paint, counted, line, millis, one, wrapped};
use crate::control::{DrillKind, DrillReport};
use crate::failover::ramp::Tally;

pub(crate) fn drill(report: &DrillReport, paint: Paint) -> String {
    let DrillReport { service, from, to, .. } = report;
    let what = match report.kind {
        DrillKind::Decision => "a decision, nothing was moved".to_owned(),
        DrillKind::Share(permille) => format!("{} % of the requests", f64::from(permille) / 10.0),
        DrillKind::Full => "there and back".to_owned(),
    };
    let verdict = match (report.passed, &report.aborted) {
        (true, _) => paint.good(&one(&format!("drill of {service}: {to} could take over now"))),
        (false, why) => {
            let why = why.as_deref().unwrap_or("it did not pass");
            let mut told = String::new();
            let told_of = format!("drill of {service}: {to} could NOT take over: {why}");
            wrapped(&mut told, "  ", &told_of);
            paint.bad(&told)
        }
    };
    let mut out = verdict;
    let took = u64::try_from(report.ended.since(report.began).as_micros()).unwrap_or(u64::MAX);
    line(&mut out, &format!("  rehearsed  {from} to {to}: {what}; it took {}", millis(took)));
    let proof = millis(report.proof_micros);
    line(&mut out, &format!("  proof      {proof} until {to} had answered its probes"));
    if let Some(micros) = report.switch_micros {
        let micros = millis(micros);
        line(&mut out, &format!("  switch     {micros} until all workers saw the move"));
    }
    for (pool, tally) in [(to, &report.target), (from, &report.serving)] {
        if tally.requests > 0 {
            line(&mut out, &format!("  requests   {}", tally_of(pool, tally)));
        }
    }
    if report.kind != DrillKind::Decision {
        let (lost, rescued) = (report.cost.lost_total(), report.cost.rescued_total());
        let lost = if lost == 0 { "nothing".to_owned() } else { counted(lost, "request") };
        line(&mut out, &format!("  cost       lost {lost}, rescued {rescued}"));
    }
    let failed = report.evidence.iter().filter(|seen| !seen.success);
    for seen in failed {
        let told = format!("  seen       {} {}: {}", seen.pool, seen.endpoint, seen.result);
        wrapped(&mut out, "             ", &told);
    }
    for id in &report.records {
        line(&mut out, &format!("  record     `standfast explain {id}`"));
    }
    out
}

fn tally_of(pool: &str, tally: &Tally) -> String {
    let requests = counted(tally.requests, "request");
    let percent = (tally.ratio() * 1e4).round() / 1e2;
    format!("{pool}: {requests}, {} ({percent} %)", counted(tally.errors, "error"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::record::{Cost, Stamp};
    use crate::observe::fixture;

    fn report() -> DrillReport {
        DrillReport {
            service: "app".to_owned(),
            from: "hot".to_owned(),
            to: "standby".to_owned(),
            kind: DrillKind::Share(50),
            passed: true,
            aborted: None,
            began: Stamp(0),
            ended: Stamp(30_004_000),
            proof_micros: 1_500,
            switch_micros: None,
            target: Tally { requests: 1_503, errors: 1 },
            serving: Tally { requests: 28_510, errors: 0 },
            evidence: fixture::record(1).evidence,
            records: vec!["app-4".to_owned()],
            cost: Cost::default(),
        }
    }

    #[test]
    fn a_drill_that_passed_says_what_it_measured() {
        let mut report = report();
        report.evidence.retain(|seen| seen.success);
        let expected = "\
drill of app: standby could take over now
  rehearsed  hot to standby: 5 % of the requests; it took 30 s
  proof      1.5 ms until standby had answered its probes
  requests   standby: 1,503 requests, 1 error (0.07 %)
  requests   hot: 28,510 requests, 0 errors (0 %)
  cost       lost nothing, rescued 0
  record     `standfast explain app-4`
";
        assert_eq!(drill(&report, Paint(false)), expected);
    }

    #[test]
    fn a_drill_that_failed_says_why_and_what_was_seen() {
        let aborted = Some("standby erred more than 0.1%".to_owned());
        let told = drill(&DrillReport { passed: false, aborted, ..report() }, Paint(false));
        assert!(told.starts_with("drill of app: standby could NOT take over: standby erred"));
        assert!(told.contains("  seen       hot 10.0.1.10:80: connection refused\n"), "{told}");
    }
}

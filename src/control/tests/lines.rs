//! What the log tells a tired operator.

use super::*;

thread_local! {
    /// Log lines of this thread's test, as a person reads them.
    static LINES: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[derive(Debug, Clone, Copy)]
struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// For the whole test process: a subscriber of one thread would race with the other threads
    /// for who decides whether a line is of interest.
    fn listen() {
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(|| Self)
            .finish();
        tracing::subscriber::set_global_default(subscriber).expect("only this test listens");
    }

    fn take() -> String {
        String::from_utf8(LINES.take()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_failover_is_told_in_one_line_for_each_thing_that_changed() {
    Lines::listen();
    let rig = settled().await;
    assert_eq!(Lines::take().lines().count(), 2, "each endpoint came up");
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| serving(table) == 1).await;
    sleep(Duration::from_secs(30)).await;
    let told_failover = Lines::take();
    let failover: Vec<_> = told_failover.lines().map(str::trim).collect();
    let [verdict, moved, record, complete] = failover[..] else { panic!("{failover:#?}") };
    let expected = "WARN verdict service=app pool=hot endpoint=10.0.1.1:80 from=up to=down \
                    why=\"connection refused; 3 failures in a row within 2";
    assert!(verdict.starts_with(expected), "{verdict}");
    let expected = "WARN failover service=app from=hot to=standby cause=health \
                    why=\"connection refused; 0 of 1 endpoints up, needs 1; first evidence 2";
    assert!(moved.starts_with(expected), "{moved}");
    let expected = "INFO failover record id=\"app-1\" complete=false record=\"{";
    assert!(record.starts_with(expected), "{record}");
    let expected = "INFO failover record id=\"app-1\" complete=true record=\"{";
    assert!(complete.starts_with(expected), "{complete}");
    rig.sim.let_be(STANDBY, Life::Refusing);
    rig.until(|table| table.services[0].none_available).await;
    sleep(Duration::from_secs(30)).await;
    let told_dark = Lines::take();
    let dark: Vec<_> = told_dark.lines().map(str::trim).collect();
    assert_eq!(dark.len(), 2, "{dark:#?}");
    let expected = "ERROR no pool is available service=app serving=standby \
                    why=\"0 of 1 endpoints up, needs 1\"";
    assert_eq!(dark[1], expected);
}

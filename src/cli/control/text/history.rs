//! ● `standfast history`: each move in two lines, what it was and why, the newest first.

use super::{Clock, Paint, clean, cut, duration, millis, one};
use crate::failover::Record;

const MOST_ID: usize = 16;
const MOST_MOVE: usize = 24;

pub(crate) fn history(records: &[Record], clock: Clock, paint: Paint) -> String {
    if records.is_empty() {
        return "nothing has moved yet\n".to_owned();
    }
    let heads = ["ID", "WHEN", "AGO", "FROM → TO", "CAUSE", "LOST", "FOUND IN"];
    let heads = heads.map(str::to_owned);
    let rows: Vec<_> = records.iter().map(|record| row(record, clock)).collect();
    let all = || std::iter::once(&heads).chain(&rows);
    let width =
        |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 7] = std::array::from_fn(width);
    let told = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).map(|(text, width)| format!("{text:width$}"));
        one(&cells.collect::<Vec<_>>().join("  "))
    };
    let mut out = paint.dim(&told(&heads));
    for (record, row) in records.iter().zip(&rows) {
        let line = told(row);
        out.push_str(&if record.cost.lost_total() > 0 { paint.bad(&line) } else { line });
        out.push_str(&one(&format!("    {}", reason(record))));
    }
    out
}

fn reason(record: &Record) -> String {
    let forced = if record.forced { "forced: " } else { "" };
    match &record.aborted {
        Some(aborted) => format!("ABORTED: {aborted}"),
        None => format!("{forced}{}", record.reason),
    }
}

fn row(record: &Record, clock: Clock) -> [String; 7] {
    let Record { id, from, to, cause, times, .. } = record;
    let mut age = duration(clock.age(times.decided));
    // The larger unit will do.
    if let Some((unit, _)) = age.match_indices(' ').nth(1) {
        age.truncate(unit);
    }
    let when = clock.local(times.decided);
    let this_year = clock.local(clock.now).get(..5).is_some_and(|year| when.starts_with(year));
    let when = when.get(if this_year { 5.. } else { 0.. }).unwrap_or(&when).to_owned();
    let found = times.published.since(times.first_evidence).as_micros();
    let found = match u64::try_from(found).unwrap_or(u64::MAX) {
        0 => "-".to_owned(),
        micros => millis(micros),
    };
    let lost = match record.complete {
        true => record.cost.lost_total().to_string(),
        false => format!("{}+", record.cost.lost_total()),
    };
    [
        cut(&clean(id), MOST_ID),
        when,
        age,
        cut(&clean(&format!("{from} → {to}")), MOST_MOVE),
        cause.label().to_owned(),
        lost,
        found,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::Cause;
    use crate::failover::record::Stamp;
    use crate::observe::fixture::{FIRST, record};

    /// Twenty minutes later, an hour east of Greenwich.
    const CLOCK: Clock = Clock { now: Stamp(FIRST + 1_200_000_000), offset: |_| 3_600 };

    #[test]
    fn a_move_is_two_lines_with_what_it_cost_and_why() {
        let (lost, mut ordered) = (record(12), record(11));
        (ordered.cause, ordered.reason) = (Cause::Manual, "upgrade of hot to 1.37".to_owned());
        (ordered.from, ordered.to) = ("standby".to_owned(), "hot".to_owned());
        ordered.times.first_evidence = Stamp(FIRST - 400_000_000 * 86_400);
        ordered.times.decided = ordered.times.first_evidence;
        ordered.times.published = ordered.times.first_evidence;
        ordered.cost.lost.clear();
        ordered.complete = false;
        let page = history(&[lost, ordered], CLOCK, Paint(false));
        let expected = "\
ID      WHEN                 AGO    FROM → TO      CAUSE   LOST  FOUND IN
app-12  11-20 22:28:01       19 m   hot → standby  health  3     42 ms
    connection refused; 0 of 2 endpoints up, needs 1
app-11  2025-10-16 22:28:01  400 d  standby → hot  manual  0+    -
    upgrade of hot to 1.37
";
        assert_eq!(page, expected);
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
    }

    #[test]
    fn a_history_without_moves_says_so_and_colours_are_for_terminals() {
        assert_eq!(history(&[], CLOCK, Paint(false)), "nothing has moved yet\n");
        let mut odd = record(1);
        odd.reason = "\x1b[31mred".to_owned();
        assert!(!history(&[odd.clone()], CLOCK, Paint(false)).contains('\x1b'));
        assert!(history(&[odd], CLOCK, Paint(true)).starts_with("\x1b[2mID"));
    }
}

use super::*;

fn texts(batch: &Batch) -> Vec<&str> {
    batch.lines.iter().map(|line| line.text.as_str()).collect()
}

fn filled(lines: usize) -> LogRing {
    let ring = LogRing::new();
    (0..lines).for_each(|number| ring.push(Level::Info, "test", &number.to_string()));
    ring
}

async fn rest(mut watcher: Watcher) -> (u64, Vec<u64>) {
    let (mut lost, mut numbers) = (0, Vec::new());
    while let Some(batch) = watcher.next().await {
        lost += batch.lost;
        numbers.extend(batch.lines.iter().map(|line| line.number));
    }
    (lost, numbers)
}

#[tokio::test]
async fn the_last_lines_come_first_and_then_what_is_logged() {
    let ring = filled(5);
    let mut watcher = ring.watch(2);
    assert_eq!(texts(&watcher.next().await.unwrap()), ["3", "4"]);
    let waiting = tokio::spawn(async move { (watcher.next().await, watcher) });
    tokio::task::yield_now().await;
    ring.push(Level::Warn, "test", "5");
    let (batch, mut watcher) = waiting.await.unwrap();
    assert_eq!(texts(&batch.unwrap()), ["5"]);
    ring.push(Level::Warn, "test", "6");
    ring.end();
    assert_eq!(texts(&watcher.next().await.unwrap()), ["6"], "also what came before the end");
    assert_eq!(watcher.next().await, None);
    assert_eq!(rest(ring.tail(3)).await, (0, vec![4, 5, 6]));
    assert_eq!(rest(ring.tail(0)).await, (0, vec![]));
    assert_eq!(rest(ring.tail(usize::MAX)).await, (0, (0..7).collect()));
}

#[tokio::test]
async fn who_is_slow_is_told_how_many_lines_were_lost_and_no_line_is_neither_shown_nor_counted() {
    let ring = filled(10);
    let mut slow = ring.watch(10);
    let first = slow.next().await.unwrap();
    assert_eq!((first.lost, first.lines.len()), (0, 10));
    let more = LogRing::LINES as u64 + 500;
    (0..more).for_each(|_| ring.push(Level::Info, "test", "x"));
    ring.end();
    let (lost, numbers) = rest(slow).await;
    assert_eq!(lost, 500);
    assert_eq!(numbers, (510..10 + more).collect::<Vec<_>>());
}

#[test]
fn the_ring_has_an_end_whatever_is_logged() {
    let ring = LogRing::new();
    let long = "ä".repeat(LogRing::LINE);
    for _ in 0..200 {
        ring.push(Level::Error, "test", &long);
    }
    let kept = ring.kept();
    assert!(kept.bytes <= LogRing::BYTES, "{}", kept.bytes);
    assert_eq!(kept.bytes, kept.lines.iter().map(|line| line.weight()).sum::<usize>());
    assert!(kept.lines.iter().all(|line| line.text.len() == LogRing::LINE));
    drop(kept);
    for _ in 0..3 * LogRing::LINES {
        ring.push(Level::Error, "test", "");
    }
    assert_eq!(ring.kept().lines.len(), LogRing::LINES);
}

#[test]
fn the_worse_is_the_smaller_level() {
    let levels: Vec<Level> = ["error", "warn", "info", "debug", "trace"].map(|l| l.parse().unwrap()).into();
    assert!(levels.is_sorted());
    assert!("verbose".parse::<Level>().is_err());
}

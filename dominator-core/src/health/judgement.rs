use std::time::Duration;

use super::{HealthCheck, HealthChecks, Probe};

/// What became of one check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthOutcome {
    /// Which.
    pub name: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it failed at last; nothing, when it is well.
    pub error: Option<String>,
    /// How long after the beginning it was decided.
    pub took: Duration,
}

/// Decides when each check is tried and what it comes to. Times are from the beginning, which is when services had been
/// started. Whoever drives it calls [`Judgement::next`] until it says to wait or that all is decided, and tells every answer.
#[derive(Clone, Debug)]
pub struct Judgement {
    checks: HealthChecks,
    courses: Vec<Course>,
}

/// How far a check is.
#[derive(Clone, Debug)]
struct Course {
    attempts: u32,
    last_error: Option<String>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Due(Duration),
    UnderWay,
    Well(Duration),
    Failed(Duration),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try this, beside what is being tried already, and tell the answer.
    Try(Attempt),
    /// Nothing before that time, unless an answer comes.
    Wait(Duration),
    /// Nothing more: answers that are still to come don't matter. What became of each check, in the order they were given;
    /// the update may stay when all are well.
    Decided(Vec<HealthOutcome>),
}

/// One attempt at one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which check it is, to be told with the answer.
    pub check: usize,
    /// What is to be tried.
    pub probe: Probe,
    /// How long it may take: no longer than the deadline.
    pub limit: Duration,
}

impl Judgement {
    /// Nothing has been tried yet.
    pub fn new(checks: HealthChecks) -> Self {
        let course = Course { attempts: 0, last_error: None, stage: Stage::Due(Duration::ZERO) };
        let courses = vec![course; checks.len()];
        Self { checks, courses }
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: Duration) -> Next {
        let is_well = |course: &Course| matches!(course.stage, Stage::Well(_));
        let is_lost = |course: &Course| matches!(course.stage, Stage::Failed(_));
        let deadline = self.checks.deadline();
        // One that failed is enough: the sooner the machine is as before, the better.
        if now >= deadline || self.courses.iter().all(is_well) || self.courses.iter().any(is_lost) {
            return Next::Decided(self.outcomes(now));
        }
        let mut wait = deadline;
        for (index, (course, check)) in self.courses.iter_mut().zip(self.checks.iter()).enumerate() {
            match course.stage {
                Stage::Due(at) if at <= now => {
                    course.stage = Stage::UnderWay;
                    course.attempts = course.attempts.saturating_add(1);
                    let limit = check.timeout.min(deadline.saturating_sub(now));
                    return Next::Try(Attempt { check: index, probe: check.probe.clone(), limit });
                }
                Stage::Due(at) => wait = wait.min(at),
                Stage::UnderWay | Stage::Well(_) | Stage::Failed(_) => {}
            }
        }
        Next::Wait(wait)
    }

    /// Takes in what came of an attempt: nothing when all was well, else why not.
    pub fn answered(&mut self, now: Duration, check: usize, error: Option<String>) {
        let (Some(course), Some(rule)) = (self.courses.get_mut(check), self.checks.iter().nth(check)) else {
            return;
        };
        // Who is late, or was not asked, says nothing.
        if course.stage != Stage::UnderWay || now >= self.checks.deadline {
            return;
        }
        let again = now.saturating_add(rule.delay);
        course.stage = match &error {
            None => Stage::Well(now),
            // One that would come too late is none.
            Some(_) if is_last(rule, course.attempts) || again >= self.checks.deadline => Stage::Failed(now),
            Some(_) => Stage::Due(again),
        };
        course.last_error = error;
    }

    fn outcomes(&self, now: Duration) -> Vec<HealthOutcome> {
        let deadline = self.checks.deadline();
        let outcome = |(check, course): (&HealthCheck, &Course)| {
            let (took, error) = match course.stage {
                Stage::Well(at) => (at, None),
                Stage::Failed(at) => (at, course.last_error.clone()),
                Stage::Due(_) | Stage::UnderWay => {
                    let why = match now >= deadline {
                        true => format!("not well within {} s", deadline.as_secs_f64()),
                        false => "given up, as another check had failed".to_owned(),
                    };
                    let last = course.last_error.as_ref().map(|error| format!("; last: {error}"));
                    (now.min(deadline), Some(why + &last.unwrap_or_default()))
                }
            };
            HealthOutcome { name: check.name.clone(), attempts: course.attempts, error, took }
        };
        self.checks.iter().zip(&self.courses).map(outcome).collect()
    }
}

fn is_last(check: &HealthCheck, attempts: u32) -> bool {
    check.retries.is_some_and(|retries| attempts > retries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checks(json: &str) -> HealthChecks {
        HealthChecks::from_json(json.as_bytes()).unwrap()
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn tried(next: Next) -> (usize, Duration) {
        match next {
            Next::Try(attempt) => (attempt.check, attempt.limit),
            other @ (Next::Wait(_) | Next::Decided(_)) => panic!("{other:?}"),
        }
    }

    fn decided(next: Next) -> Vec<HealthOutcome> {
        match next {
            Next::Decided(outcomes) => outcomes,
            other @ (Next::Try(_) | Next::Wait(_)) => panic!("{other:?}"),
        }
    }

    fn is_healthy(outcomes: &[HealthOutcome]) -> bool {
        outcomes.iter().all(|outcome| outcome.error.is_none())
    }

    const TWO: &str = r#"{"Deadline": "10s", "Checks": [
        {"Name": "a", "Unit": "a", "Timeout": "4s", "Retries": 1, "Delay": "2s"},
        {"Name": "b", "Unit": "b", "Timeout": "4s", "Delay": "3s"}]}"#;

    #[test]
    fn nothing_to_check_is_well_at_once() {
        let mut judgement = Judgement::new(HealthChecks::default());
        assert_eq!(decided(judgement.next(Duration::ZERO)), []);
    }

    #[test]
    fn all_are_tried_at_once_and_those_that_fail_again_after_their_delay() {
        let mut judgement = Judgement::new(checks(TWO));
        assert_eq!(tried(judgement.next(secs(0))), (0, secs(4)));
        assert_eq!(tried(judgement.next(secs(0))), (1, secs(4)));
        assert_eq!(judgement.next(secs(0)), Next::Wait(secs(10)));
        judgement.answered(secs(1), 0, None);
        judgement.answered(secs(4), 1, Some("down".into()));
        assert_eq!(judgement.next(secs(4)), Next::Wait(secs(7)));
        // No attempt outlasts the deadline.
        assert_eq!(tried(judgement.next(secs(8))), (1, secs(2)));
        judgement.answered(secs(9), 1, None);
        let outcomes = decided(judgement.next(secs(9)));
        assert!(is_healthy(&outcomes));
        let told: Vec<_> = outcomes.iter().map(|o| (o.name.as_str(), o.attempts, o.took)).collect();
        assert_eq!(told, [("a", 1, secs(1)), ("b", 2, secs(9))]);
    }

    #[test]
    fn one_that_has_no_attempt_left_decides_before_the_deadline() {
        let mut judgement = Judgement::new(checks(TWO));
        tried(judgement.next(secs(0)));
        tried(judgement.next(secs(0)));
        judgement.answered(secs(0), 0, Some("one".into()));
        tried(judgement.next(secs(2)));
        judgement.answered(secs(3), 0, Some("two".into()));
        let outcomes = decided(judgement.next(secs(3)));
        assert!(!is_healthy(&outcomes));
        let errors: Vec<_> = outcomes.iter().map(|o| o.error.as_deref().unwrap()).collect();
        assert_eq!(errors, ["two", "given up, as another check had failed"]);
    }

    #[test]
    fn one_whose_next_attempt_would_come_after_the_deadline_decides_at_once() {
        let late = r#"{"Deadline": "10s", "Checks": [{"Name": "a", "Unit": "a", "Delay": "6s"}]}"#;
        let mut judgement = Judgement::new(checks(late));
        tried(judgement.next(secs(0)));
        judgement.answered(secs(3), 0, Some("one".into()));
        assert_eq!(judgement.next(secs(3)), Next::Wait(secs(9)));
        tried(judgement.next(secs(9)));
        judgement.answered(secs(9), 0, Some("two".into()));
        let outcomes = decided(judgement.next(secs(9)));
        assert_eq!((outcomes[0].error.as_deref(), outcomes[0].attempts), (Some("two"), 2));
    }

    #[test]
    fn the_deadline_decides_over_what_is_still_under_way_and_late_answers_say_nothing() {
        let mut judgement = Judgement::new(checks(TWO));
        tried(judgement.next(secs(0)));
        tried(judgement.next(secs(0)));
        judgement.answered(secs(1), 0, None);
        judgement.answered(secs(10), 1, None);
        let outcomes = decided(judgement.next(secs(10)));
        assert!(!is_healthy(&outcomes));
        assert_eq!(outcomes[1].error.as_deref(), Some("not well within 10 s"));
    }

    proptest! {
        /// Whatever the answers and the time they take: it comes to an end at the deadline at the latest, no check is tried
        /// more often than allowed or twice at once, and all is well only if each check was.
        #[test]
        fn every_judgement_comes_to_a_right_end(
            retries in proptest::collection::vec(proptest::option::of(0_u32..3), 1..4),
            answers in proptest::collection::vec((any::<bool>(), 0_u64..3000), 1..40),
        ) {
            let list = retries.iter().enumerate().map(|(n, retries)| HealthCheck {
                retries: *retries,
                delay: Duration::from_millis(700),
                timeout: Duration::from_secs(2),
                ..HealthCheck::new(n.to_string(), Probe::Unit("x".into()))
            });
            let mut judgement = Judgement::new(HealthChecks::new(list.collect(), secs(5)).unwrap());
            let (mut now, mut answers) = (Duration::ZERO, answers.into_iter().cycle());
            let mut running: Vec<(Duration, usize, bool)> = Vec::new();
            let mut well = vec![false; retries.len()];
            let mut attempts = vec![0_u32; retries.len()];
            let outcomes = loop {
                match judgement.next(now) {
                    Next::Decided(outcomes) => break outcomes,
                    Next::Try(Attempt { check, limit, .. }) => {
                        prop_assert!(running.iter().all(|(_, other, _)| *other != check));
                        prop_assert!(now + limit <= secs(5));
                        attempts[check] += 1;
                        let (good, millis) = answers.next().unwrap();
                        let end = now + Duration::from_millis(millis).min(limit);
                        running.push((end, check, good && end < now + limit));
                    }
                    Next::Wait(until) => {
                        prop_assert!(until > now);
                        running.sort();
                        match running.first().copied().filter(|(end, ..)| *end <= until) {
                            Some((end, check, good)) => {
                                running.remove(0);
                                now = end.max(now);
                                well[check] |= good && now < secs(5);
                                judgement.answered(now, check, (!good).then(|| "no".to_owned()));
                            }
                            None => now = until,
                        }
                    }
                }
            };
            prop_assert!(now <= secs(5));
            prop_assert_eq!(is_healthy(&outcomes), well.iter().all(|well| *well));
            for ((outcome, retries), attempts) in outcomes.iter().zip(&retries).zip(attempts) {
                prop_assert_eq!(outcome.attempts, attempts);
                prop_assert!(retries.is_none_or(|retries| attempts <= retries + 1));
            }
        }
    }
}

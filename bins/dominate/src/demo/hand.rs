//! What the demonstration leaves to a process of its own: it makes the trees, damages machines and judges them, with
//! plain system calls and nothing of the libraries that do the work.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;
use dominator_daemon::{During, Failure};
use serde::Serialize;

use super::compare;
use super::damage::{self, Kind};
use super::trees;
use crate::Verdict;

/// What the hand is to do. Each prints one line of JSON.
#[derive(Clone, Debug, Subcommand)]
pub enum Hand {
    /// Copy a tree, or enough of the first of several that has enough
    Copy {
        /// Where to; must not exist
        #[arg(long)]
        to: PathBuf,
        /// Take everything, however much there is
        #[arg(long)]
        whole: bool,
        /// From where
        #[arg(required = true)]
        from: Vec<PathBuf>,
    },
    /// Change a tree as the next version of it would
    Upgrade {
        /// Which
        tree: PathBuf,
    },
    /// Damage a tree, and wait until somebody repairs it
    Damage {
        /// In what way
        #[arg(value_enum)]
        kind: Kind,
        /// Which
        tree: PathBuf,
        /// What it must be
        reference: PathBuf,
    },
    /// Compare two trees
    Compare {
        /// One
        tree: PathBuf,
        /// The other
        reference: PathBuf,
    },
}

/// Does it.
pub(crate) fn lend(hand: &Hand) -> Result<Verdict, Failure> {
    match hand {
        Hand::Copy { to, whole, from } => {
            let amount = if *whole { trees::Amount::Everything } else { trees::Amount::Enough };
            tell(&trees::copy(from, to, amount)?)
        }
        Hand::Upgrade { tree } => {
            tell(&trees::upgrade(tree).during(|| format!("can't change {}", tree.display()))?)
        }
        Hand::Damage { kind, tree, reference } => tell(&damage::damage(*kind, tree, reference)?),
        Hand::Compare { tree, reference } => {
            let compared = compare::trees(tree, reference).during(|| "can't compare".into())?;
            tell(&compared)?;
            return Ok(if compared.differing.is_empty() { Verdict::Compliant } else { Verdict::Deviant });
        }
    }
    .map(|()| Verdict::Compliant)
}

fn tell(result: &impl Serialize) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let told = serde_json::to_writer(&mut out, result).map_err(io::Error::from);
    told.and_then(|()| writeln!(out)).during(|| "nobody listens".into())
}

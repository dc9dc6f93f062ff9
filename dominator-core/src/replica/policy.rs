use crate::filter::Filter;
use crate::image::ImageName;

/// Which of its master's images a replica has, and for how long.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Only images whose names match from their beginning; all, if there is none.
    pub include: Option<Filter>,
    /// Of those, none whose names match.
    pub exclude: Option<Filter>,
    /// What becomes of what the master does not have any more.
    pub mode: Mode,
}

/// What becomes of images that a master does not have any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// What the master deletes is deleted here.
    #[default]
    Mirror,
    /// Nothing is ever deleted for the master's sake.
    Archive(ArchivedExpiry),
}

/// Whether an archive takes in images that expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArchivedExpiry {
    /// It does not.
    #[default]
    LeftOut,
    /// It does, and has them until they expire.
    TakenIn,
}

impl Policy {
    /// Whether images of that name are looked at at all.
    pub fn selects(&self, name: &ImageName) -> bool {
        let matches = |filter: &Filter| match filter {
            Filter::Sparse | Filter::Empty => false,
            Filter::Lines(lines) => lines.matches(name.as_str().as_bytes()),
        };
        self.include.as_ref().is_none_or(matches) && !self.exclude.as_ref().is_some_and(matches)
    }
}

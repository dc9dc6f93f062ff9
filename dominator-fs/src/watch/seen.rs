//! What a burst of events comes down to: which directories, and what of them.

use std::collections::{BTreeSet, HashMap};

use dominator_core::path::{ImagePath, Name};
use dominator_core::view::View;

use super::record::{About, Event, Malformed};
use crate::handle::Handle;

/// The directories something happened in since the queue was last looked at, each once.
#[derive(Debug, Default)]
pub(super) struct Seen {
    directories: HashMap<Key, Abouts>,
    pub(super) overflows: u64,
    /// More happened than is told apart.
    pub(super) everything: bool,
}

/// A directory's handle, kept.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key(i32, Box<[u8]>);

/// What of one directory.
#[derive(Debug, Default)]
pub(super) struct Abouts {
    itself: bool,
    names: BTreeSet<Box<[u8]>>,
    /// More names than are told apart.
    any_name: bool,
}

impl Seen {
    /// How many names of one directory are told apart: enough for what is written to all the time out of view.
    const MAX_NAMES: usize = 16;

    pub(super) fn add(&mut self, event: Result<Event<'_>, Malformed>, limit: usize) {
        match event {
            Ok(Event::Directory(handle, about)) => self.directory(handle, about, limit),
            Ok(Event::Overflow) => {
                self.overflows += 1;
                self.everything = true;
            }
            Ok(Event::Nowhere) => {}
            // What follows in this read is lost with it.
            Err(Malformed(_)) => self.everything = true,
        }
        if self.everything {
            self.directories.clear();
        }
    }

    fn directory(&mut self, handle: Handle<'_>, about: About<'_>, limit: usize) {
        if self.everything {
            return;
        }
        let abouts = self.directories.entry(Key(handle.kind, handle.bytes.into())).or_default();
        match about {
            About::Itself => abouts.itself = true,
            About::Entry(_) if abouts.any_name => {}
            About::Entry(name) => {
                abouts.names.insert(name.into());
                abouts.any_name = abouts.names.len() > Self::MAX_NAMES;
            }
        }
        self.everything = self.directories.len() > limit;
    }

    pub(super) fn directories(&self) -> impl Iterator<Item = (Handle<'_>, &Abouts)> {
        self.directories.iter().map(|(Key(kind, bytes), abouts)| (Handle { kind: *kind, bytes }, abouts))
    }
}

impl Abouts {
    /// The directories whose entries are to be looked at again when this happened in `directory`: that one, or the one it
    /// is an entry of, or both, or none.
    pub(super) fn of(&self, directory: &ImagePath, view: &View) -> impl Iterator<Item = ImagePath> {
        let reached = view.reaches(directory);
        let shown = |name: &[u8]| {
            // A name no tree can hold is a fact the next scan tells of.
            Name::parse(name).and_then(|name| directory.join(&name)).map_or(true, |path| view.shows(&path))
        };
        let entries = reached && (self.any_name || self.names.iter().any(|name| shown(name)));
        let itself = reached && self.itself;
        let outer = itself.then(|| directory.parent().unwrap_or_else(ImagePath::root));
        entries.then(|| directory.clone()).into_iter().chain(outer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event<'a>(handle: &'a [u8], about: About<'a>) -> Result<Event<'a>, Malformed> {
        Ok(Event::Directory(Handle { kind: 1, bytes: handle }, about))
    }

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).unwrap()
    }

    fn hints(events: &[About<'_>], directory: &str, view: &View) -> Vec<String> {
        let mut seen = Seen::default();
        events.iter().for_each(|about| seen.add(event(b"d", *about), 1));
        assert!(!seen.everything, "one directory is one, however much happens in it");
        let directory = path(directory);
        let all = seen.directories().flat_map(|(_, abouts)| abouts.of(&directory, view).collect::<Vec<_>>());
        all.map(|path| path.to_string()).collect()
    }

    #[test]
    fn what_is_not_in_view_gives_no_hint() {
        let mut view = View::everything();
        view.protected.insert(path("/var/log"));
        view.protected.insert(path("/etc/keys"));
        let entry = |name: &'static str| About::Entry(name.as_bytes());
        let none: [&str; 0] = [];
        assert_eq!(hints(&[entry("syslog"), About::Itself], "/var/log", &view), none);
        assert_eq!(hints(&[entry("file")], "/var/log/deep", &view), none);
        assert_eq!(hints(&[entry("7")], "/.subd/slots", &view), none);
        assert_eq!(hints(&[entry(".subd")], "/", &view), none);
        assert_eq!(hints(&[entry("keys")], "/etc", &view), none);
        assert_eq!(hints(&[entry("keys"), entry("passwd")], "/etc", &view), ["/etc"]);
        assert_eq!(hints(&[About::Itself], "/etc", &view), ["/"]);
        assert_eq!(hints(&[About::Itself], "/", &view), ["/"]);
        assert_eq!(hints(&[About::Itself, entry("passwd")], "/etc", &view), ["/etc", "/"]);
    }

    #[test]
    fn many_names_are_any_name_and_many_directories_are_everything() {
        let names: Vec<String> = (0..100).map(|n| format!(".{n}")).collect();
        let events: Vec<_> = names.iter().map(|name| About::Entry(name.as_bytes())).collect();
        let mut view = View::everything();
        view.protected.extend(names.iter().map(|name| path(&format!("/d/{name}"))));
        assert_eq!(hints(&events[..16], "/d", &view).len(), 0);
        assert_eq!(hints(&events, "/d", &view), ["/d"], "too many to be told apart");
        let mut seen = Seen::default();
        seen.add(event(b"one", About::Itself), 2);
        seen.add(event(b"two", About::Itself), 2);
        seen.add(event(b"two", About::Entry(b"x")), 2);
        assert!(!seen.everything);
        seen.add(event(b"three", About::Itself), 2);
        assert!(seen.everything);
        seen.add(event(b"four", About::Itself), 2);
        assert_eq!(seen.directories().count(), 0, "and nothing more is kept");
    }

    #[test]
    fn what_is_lost_counts_as_everything() {
        let mut seen = Seen::default();
        seen.add(Ok(Event::Overflow), 9);
        assert!(seen.everything && seen.overflows == 1);
        let mut seen = Seen::default();
        super::super::record::events(b"garbage").for_each(|event| seen.add(event, 9));
        assert!(seen.everything && seen.overflows == 0);
    }
}

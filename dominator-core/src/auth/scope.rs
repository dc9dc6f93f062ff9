//! Where what a certificate grants ends.

use std::collections::{BTreeMap, BTreeSet};

use super::Target;
use crate::image::ImageName;
use crate::namespace::DirectoryName;

/// Machines and images to which the methods of a certificate are limited.
///
/// The two are apart: one that names no tags is not limited to machines, one that names no directories is not limited to
/// images. The default limits nothing, which is what a certificate means that says nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Tags a machine must have, each with the values of which its own must be one.
    pub tags: BTreeMap<String, BTreeSet<String>>,
    /// Directories of images, without a slash at their end; an image must be in one of them or below.
    pub directories: BTreeSet<String>,
}

impl Scope {
    /// Whether methods are granted for what a call touches.
    pub fn has(&self, target: Target<'_>) -> bool {
        match target {
            Target::Nothing => true,
            Target::Machine(tags) => self.has_machine(tags),
            Target::Image(name) => self.has_image(name),
            Target::ImageDirectory(name) => self.has_directory(name),
            Target::Fleet => self.has_all_machines(),
        }
    }

    /// Whether methods are granted for a machine with these tags.
    pub fn has_machine(&self, tags: &BTreeMap<String, String>) -> bool {
        self.tags.iter().all(|(key, values)| tags.get(key).is_some_and(|value| values.contains(value)))
    }

    /// Whether methods are granted for this image.
    pub fn has_image(&self, image: &ImageName) -> bool {
        self.has_below(image.as_str())
    }

    /// Whether methods are granted for this directory of images: it is below one that is named. Whose that one itself is
    /// remains for others to say.
    pub fn has_directory(&self, directory: &DirectoryName) -> bool {
        self.has_below(directory.as_str())
    }

    fn has_below(&self, name: &str) -> bool {
        let below = |directory: &String| {
            name.strip_prefix(directory.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        self.directories.is_empty() || self.directories.iter().any(below)
    }

    /// Whether methods are granted for all machines.
    pub fn has_all_machines(&self) -> bool {
        self.tags.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_ends_at_its_tags_and_at_its_directories() {
        let tags = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let image = |name: &str| name.parse().unwrap();
        let free = Scope::default();
        assert!(free.has_machine(&tags(&[])) && free.has_image(&image("base/1")) && free.has_all_machines());
        let scope = Scope {
            tags: [
                ("tier".into(), ["front".into(), "edge".into()].into()),
                ("site".into(), ["a".into()].into()),
            ]
            .into(),
            directories: ["base".into()].into(),
        };
        assert!(scope.has_machine(&tags(&[("tier", "edge"), ("site", "a"), ("more", "x")])));
        assert!(!scope.has_machine(&tags(&[("tier", "edge")])) && !scope.has_machine(&tags(&[])));
        assert!(!scope.has_machine(&tags(&[("tier", "back"), ("site", "a")])) && !scope.has_all_machines());
        assert!(scope.has_image(&image("base/1")) && scope.has_image(&image("base/more/1")));
        assert!(!scope.has_image(&image("based/1")) && !scope.has_image(&image("base")));
        let has = |scope: &Scope, name: &str| scope.has_directory(&name.parse().unwrap());
        assert!(has(&scope, "base/more") && has(&free, "base") && has(&free, "."));
        assert!(!has(&scope, "base") && !has(&scope, "based/more") && !has(&scope, "."));
    }
}

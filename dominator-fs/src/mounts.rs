//! Which directories and files of a root are mount points on the machine, so that no update carries a mount away.
//!
//! Linux lets anybody with the right to do so rename a directory that leads to a mount point, and the mount goes along. It
//! also lets a mount point itself be renamed or removed by whoever does not have the mount in his own tree of mounts; it is
//! gone then where it was. So what is known here, and all that leads to it, keeps its place: its metadata may change, and
//! what lies in it.
//!
//! What counts is where on the *file-system* something is mounted, whatever path leads there. So a root seen without its
//! mounts ([`Root::open_beneath_mounts`]) is covered, one that is mounted at several places is, and so are the mounts of
//! process 1 when it has a tree of mounts of its own. Those only other processes have (containers, services with a `/tmp` of
//! their own) are not known; they see what an administrator's `mv` would show them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek};

use dominator_core::path::ImagePath;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use thiserror::Error;

use crate::root::{Root, inode_of, mount_of, place_of};

/// The mount points below one root, and how they change.
#[derive(Debug)]
pub struct Mounts {
    root: Root,
    /// Of this thread, and of process 1 if that has others.
    tables: Vec<File>,
    points: BTreeSet<ImagePath>,
}

/// What is mounted can't be found out, so nothing that could be a mount point may be touched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MountsError {
    /// The table of mounts can't be read.
    #[error("the table of mounts /proc/thread-self/mountinfo can't be read; mount /proc")]
    Io(#[from] io::Error),
    /// It is not what Linux writes.
    #[error("the table of mounts holds a line this program does not understand: {line:?}")]
    Malformed {
        /// Which, or its beginning.
        line: String,
    },
    /// It is longer than any machine's.
    #[error("the table of mounts is longer than {limit} bytes; unmount what is not used")]
    TooLong {
        /// In bytes.
        limit: u64,
    },
    /// It changed all the time while it was read.
    #[error("the table of mounts changes all the time; try again when less is mounted and unmounted")]
    Unsteady,
}

impl Mounts {
    /// How long a table of mounts may be, in bytes: a hundred thousand mounts, which Linux allows by default.
    const MAX_TABLE: u64 = 64 * 1024 * 1024;
    /// How often a table that changes while it is read is read.
    const ATTEMPTS: usize = 16;

    /// Reads what is mounted now.
    ///
    /// # Errors
    /// [`MountsError`].
    pub fn of(root: &Root) -> Result<Self, MountsError> {
        let mut tables = vec![File::open("/proc/thread-self/mountinfo")?];
        let namespace = |of: &str| rustix::fs::readlink(format!("/proc/{of}/ns/mnt"), Vec::new());
        // Whoever may not look at process 1 may not mount anything either.
        if let (Ok(ours), Ok(first)) = (namespace("thread-self"), namespace("1"))
            && ours != first
        {
            tables.push(File::open("/proc/1/mountinfo")?);
        }
        let mut mounts = Self { root: root.clone(), tables, points: BTreeSet::new() };
        mounts.read()?;
        Ok(mounts)
    }

    /// Reads again if something was mounted or unmounted since it was read last. Costs one system call if not. That a
    /// directory was renamed that leads to a mount point is not noticed: see [`Mounts::read`].
    ///
    /// # Errors
    /// [`MountsError`].
    pub fn refresh(&mut self) -> Result<(), MountsError> {
        if self.changed()? { self.read() } else { Ok(()) }
    }

    /// Reads again what is mounted.
    ///
    /// # Errors
    /// [`MountsError`].
    pub fn read(&mut self) -> Result<(), MountsError> {
        for _ in 0..Self::ATTEMPTS {
            let tables = self.tables.iter_mut().map(read_table).collect::<Result<Vec<_>, _>>()?;
            let place = place_of(self.root.on_machine())?;
            let mount = mount_of(&inode_of(self.root.on_machine())?);
            if !self.changed()? {
                let parsed = tables.iter().map(|table| parse(table)).collect::<Result<Vec<_>, _>>()?;
                self.points = points(&parsed, mount, &place);
                return Ok(());
            }
        }
        Err(MountsError::Unsteady)
    }

    /// The paths where something is mounted: those of the machine that lie on the root's file-system below the root.
    pub fn points(&self) -> &BTreeSet<ImagePath> {
        &self.points
    }

    /// The first mount point that is `path` or below it: then `path` must stay where it is.
    pub fn within(&self, path: &ImagePath) -> Option<&ImagePath> {
        // What is in a directory stands right behind it.
        self.points.range(path..).next().filter(|point| point.is_within(path))
    }

    /// Whether the kernel refuses by itself to move or replace any mount point: it does those this process has in its own
    /// tree of mounts, by whatever path they are reached. A directory that leads to one it moves.
    pub fn are_held(&self) -> bool {
        self.tables.len() == 1
    }

    fn changed(&self) -> io::Result<bool> {
        let mut fds: Vec<_> = self.tables.iter().map(|table| PollFd::new(table, PollFlags::PRI)).collect();
        loop {
            match rustix::event::poll(&mut fds, Some(&Timespec::default())) {
                Err(Errno::INTR) => {}
                outcome => return Ok(outcome? > 0),
            }
        }
    }
}

/// What must stay where it is because of what is mounted: mount points, and the directories that lead to them. None where
/// they can't be found out; no update is made there.
pub(crate) fn held(root: &Root) -> BTreeSet<ImagePath> {
    let points = Mounts::of(root).map(|mounts| mounts.points).unwrap_or_default();
    points.iter().flat_map(|point| std::iter::successors(Some(point.clone()), ImagePath::parent)).collect()
}

fn read_table(table: &mut File) -> Result<Vec<u8>, MountsError> {
    let mut text = Vec::new();
    table.rewind()?;
    table.take(Mounts::MAX_TABLE + 1).read_to_end(&mut text)?;
    let fits = u64::try_from(text.len()).is_ok_and(|len| len <= Mounts::MAX_TABLE);
    if fits { Ok(text) } else { Err(MountsError::TooLong { limit: Mounts::MAX_TABLE }) }
}

/// One line of a table of mounts.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    parent: u64,
    /// The file-system, as `major:minor`.
    device: Vec<u8>,
    /// What of the file-system is mounted.
    top: Vec<u8>,
    /// Where it is mounted, as the process the table is of sees it.
    place: Vec<u8>,
}

fn parse(table: &[u8]) -> Result<Vec<Mount>, MountsError> {
    let malformed = |line: &[u8]| {
        let line = line.get(..200).unwrap_or(line);
        MountsError::Malformed { line: String::from_utf8_lossy(line).into_owned() }
    };
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| parse_line(line).ok_or_else(|| malformed(line))).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let device = fields.next()?.to_vec();
    let mut path = || unescape(fields.next()?).filter(|path| path.starts_with(b"/"));
    Some(Mount { id, parent, device, top: path()?, place: path()? })
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = after.split_at_checked(3)?;
        rest = after;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?);
    }
    Some(bytes)
}

/// The mount points below the root, which is on mount `ours` of the first table, at `place`.
fn points(tables: &[Vec<Mount>], ours: Option<u64>, place: &[u8]) -> BTreeSet<ImagePath> {
    let by_id: Vec<BTreeMap<u64, &Mount>> =
        tables.iter().map(|table| table.iter().map(|mount| (mount.id, mount)).collect()).collect();
    let own = ours.and_then(|id| by_id.first()?.get(&id).copied());
    // Where the root is on its file-system. Not known in a changed root (`chroot`) that is no mount point.
    let base = own.and_then(|own| Some((&own.device, join(&own.top, below(place, &own.place)?))));
    let mut points = BTreeSet::new();
    for (table, by_id) in tables.iter().zip(&by_id) {
        for mount in table {
            let parent = by_id.get(&mount.parent);
            let on_file_system = base.as_ref().zip(parent).and_then(|((device, base), parent)| {
                let at = join(&parent.top, below(&mount.place, &parent.place)?);
                (parent.device == **device).then(|| below(&at, base).map(<[u8]>::to_vec))?
            });
            // Nothing but the path is known of what is mounted on a mount the table does not have, or a root it does not.
            let by_path = base.is_none() || parent.is_none();
            let by_path = by_path.then(|| below(&mount.place, place).map(<[u8]>::to_vec)).flatten();
            points.extend(on_file_system.or(by_path).and_then(|path| nearest(&path)));
        }
    }
    points
}

/// `path` as seen from `base`: empty for `base` itself, nothing for what is not within it.
fn below<'a>(path: &'a [u8], base: &[u8]) -> Option<&'a [u8]> {
    let path = if path == b"/" { b"" } else { path };
    let rest = if base == b"/" { path } else { path.strip_prefix(base)? };
    rest.first().is_none_or(|first| *first == b'/').then_some(rest)
}

fn join(base: &[u8], below: &[u8]) -> Vec<u8> {
    match (base, below) {
        (b"/", b"") => b"/".to_vec(),
        (b"/", below) => below.to_vec(),
        (base, below) => [base, below].concat(),
    }
}

/// The path, or the nearest directory on the way there that an image can have: that one must stay as well.
fn nearest(path: &[u8]) -> Option<ImagePath> {
    let mut path = path;
    while !path.is_empty() {
        if let Ok(parsed) = ImagePath::parse(path) {
            return Some(parsed);
        }
        path = path.get(..path.iter().rposition(|byte| *byte == b'/')?)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(tables: &[&str], ours: Option<u64>, place: &str) -> Vec<String> {
        let tables: Vec<_> = tables.iter().map(|table| parse(table.as_bytes()).unwrap()).collect();
        points(&tables, ours, place.as_bytes()).iter().map(ToString::to_string).collect()
    }

    const MACHINE: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:20 / /proc rw - proc proc rw
24 23 0:30 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw
25 22 8:17 / /srv/data\\040one rw - xfs /dev/sdb1 rw
26 25 0:40 / /srv/data\\040one/deep rw - tmpfs tmpfs rw
27 22 8:1 /srv/shared /mnt rw - ext4 /dev/sda1 rw
28 27 0:41 / /mnt/on-it rw - tmpfs tmpfs rw
29 22 8:1 /etc/hosts /etc/resolv.conf rw - ext4 /dev/sda1 rw
30 25 8:1 / /srv/data\\040one/again rw - ext4 /dev/sda1 rw
31 30 0:42 / /srv/data\\040one/again/opt rw - tmpfs tmpfs rw
";

    #[test]
    fn mount_points_are_places_on_the_file_system_whatever_path_leads_there() {
        let all = ["/etc/resolv.conf", "/mnt", "/opt", "/proc", "/srv/data one", "/srv/shared/on-it"];
        assert_eq!(found(&[MACHINE], Some(22), "/"), all);
        let in_srv = ["/data one", "/shared/on-it"];
        assert_eq!(found(&[MACHINE], Some(22), "/srv"), in_srv);
        assert_eq!(found(&[MACHINE], Some(30), "/srv/data one/again/srv"), in_srv, "the same directory");
        assert_eq!(found(&[MACHINE], Some(27), "/mnt"), ["/on-it"]);
        assert_eq!(found(&[MACHINE], Some(25), "/srv/data one"), ["/again", "/deep"]);
        assert_eq!(found(&[MACHINE], Some(22), "/sr"), [""; 0], "a name is not a beginning of a name");
    }

    #[test]
    fn mounts_only_process_1_has_count_by_their_place_on_the_file_system() {
        let ours = "90 80 8:1 / / rw - ext4 /dev/sda1 ro\n91 90 0:50 / /tmp rw - tmpfs tmpfs rw\n";
        let expected =
            ["/etc/resolv.conf", "/mnt", "/opt", "/proc", "/srv/data one", "/srv/shared/on-it", "/tmp"];
        assert_eq!(found(&[ours, MACHINE], Some(90), "/"), expected);
        let container = "90 80 0:99 / / rw - overlay overlay rw\n91 90 0:50 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(found(&[container, MACHINE], Some(90), "/"), ["/tmp"], "another file-system");
    }

    #[test]
    fn where_only_paths_are_known_paths_count() {
        let changed_root = "23 22 0:20 / /proc rw - proc proc rw\n24 23 0:21 / /proc/deep rw - tmpfs t rw\n";
        assert_eq!(found(&[changed_root], Some(22), "/"), ["/proc", "/proc/deep"]);
        assert_eq!(found(&[changed_root], None, "/proc"), ["/deep"]);
        assert_eq!(found(&[changed_root], None, "/pro"), [""; 0]);
    }

    #[test]
    fn a_mount_point_too_long_for_any_image_keeps_what_leads_to_it() {
        let deep = format!("1 0 8:1 / / rw - e d rw\n2 1 0:9 / /{} rw - t t rw\n", ["d"; 3000].join("/"));
        let expected = format!("/{}", ["d"; ImagePath::MAX_DEPTH].join("/"));
        assert_eq!(found(&[&deep], Some(1), "/"), [expected]);
    }

    #[test]
    fn a_table_that_is_not_understood_is_an_error() {
        for line in [
            "",
            "1",
            "1 2",
            "1 2 8:1",
            "1 2 8:1 /",
            "x 2 8:1 / / rw",
            "1 2 8:1 / mnt rw",
            "1 2 8:1 / /a\\04 rw",
            "1 2 8:1 / /a\\9999 rw",
            "1 2 8:1 / /a\\777 rw",
            "-1 2 8:1 / / rw",
        ] {
            let table = format!("1 0 8:1 / / rw\n{line} \n");
            assert!(matches!(parse(table.as_bytes()), Err(MountsError::Malformed { .. })), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_table_is_too_strange_to_be_read_or_refused(
            lines in prop::collection::vec("[0-9]{1,2} [0-9]{1,2} [0-9]:[0-9] (/[a-c]{0,2}){1,3} (/[a-c]{0,2}){1,3} rw", 0..8),
            noise in any::<Vec<u8>>(),
            place in "(/[a-c]{1,2}){1,2}|/",
            at in 0..100_usize,
        ) {
            let mut table = lines.join("\n").into_bytes();
            let parsed = parse(&table).unwrap();
            prop_assert_eq!(parsed.len(), lines.len());
            points(&[parsed], Some(1), place.as_bytes());
            table.splice(at.min(table.len()).., noise);
            drop(parse(&table));
        }

        #[test]
        fn what_linux_escapes_comes_back(name in prop::collection::vec(1..=255_u8, 1..20)) {
            let escaped: Vec<u8> = name.iter().flat_map(|byte| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                other => vec![*other],
            }).collect();
            prop_assert_eq!(unescape(&escaped), Some(name));
        }
    }
}

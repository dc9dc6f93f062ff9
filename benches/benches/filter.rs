//! Filters: 200 lines as people write them over a million paths as Debian has them.
//!
//! The names are a sample of those of a Debian system, combined to a million paths; or they are those below
//! `DOMINATOR_BENCH_TREE`, which is only read, with variations until there are a million. Before anything is measured,
//! what the filter says of each path is compared with what its lines say one by one.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs
)]

use std::fs;
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dominator_core::filter::Lines;
use rayon::prelude::*;
use regex::bytes::{Regex, RegexBuilder, RegexSetBuilder};

const PATHS: usize = 1_000_000;

fn filter(criterion: &mut Criterion) {
    let paths = paths();
    let texts = lines();
    assert_eq!((paths.len(), texts.len()), (PATHS, 200));
    let lines = Lines::new(texts.clone()).unwrap();
    let matched = agree(&lines, &texts, &paths);
    let share = 100.0 * matched as f64 / PATHS as f64;
    eprintln!("{PATHS} paths agree with the reference; {share:.1} % match");
    let mut group = criterion.benchmark_group("filter");
    group.throughput(Throughput::Elements(PATHS as u64)).sample_size(10);
    group.bench_function("lines", |bench| {
        bench.iter(|| paths.iter().filter(|path| lines.matches(black_box(path))).count());
    });
    let set = RegexSetBuilder::new(texts.iter().map(|line| format!("^(?:{line})")))
        .unicode(false)
        .dot_matches_new_line(true)
        .build()
        .unwrap();
    group.bench_function("one RegexSet of all", |bench| {
        bench.iter(|| paths.iter().filter(|path| set.is_match(black_box(path))).count());
    });
    group.bench_function("bytes of the paths added up", |bench| {
        bench.iter(|| {
            paths.iter().map(|path| black_box(path).iter().map(|b| u64::from(*b)).sum::<u64>()).sum::<u64>()
        });
    });
    group.finish();
    criterion.bench_function("filter/compile", |bench| bench.iter(|| Lines::new(texts.clone()).unwrap()));
}

/// How many paths match; the filter and its lines one by one say the same of each.
fn agree(lines: &Lines, texts: &[String], paths: &[Box<[u8]>]) -> usize {
    let slow: Vec<Regex> = texts
        .iter()
        .map(|line| {
            let anchored = format!("^(?:{line})");
            RegexBuilder::new(&anchored).unicode(false).dot_matches_new_line(true).build().unwrap()
        })
        .collect();
    let matches = |path: &[u8]| {
        let expected = slow.iter().any(|line| line.is_match(path));
        assert_eq!(lines.matches(path), expected, "{}", path.escape_ascii());
        expected
    };
    paths.par_iter().filter(|path| matches(path)).count()
}

/// 200 lines: the directories that change on any machine, files of machines, and what programs leave behind.
fn lines() -> Vec<String> {
    let mut lines: Vec<String> = TREES.iter().map(|path| format!("{path}(|/.*)$")).collect();
    lines.extend(CONTENTS.iter().map(|path| format!("{path}/.*")));
    lines.extend(FILES.iter().map(|path| format!("{}$", path.replace('.', "[.]"))));
    lines.extend(OTHERS.iter().map(|&line| line.to_owned()));
    let applications = (0..).map(|number| match number % 4 {
        0 => format!("/var/lib/app{number}(|/.*)$"),
        1 => format!("/etc/app{number}/secret[.]key$"),
        2 => format!("/opt/app{number}/.*"),
        _ => format!("/var/log/app{number}[.]log"),
    });
    let missing = 200 - lines.len();
    lines.extend(applications.take(missing));
    lines
}

const TREES: [&str; 30] = [
    "/tmp",
    "/var/tmp",
    "/home",
    "/root",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/mnt",
    "/media",
    "/srv/data",
    "/var/cache",
    "/var/log",
    "/var/spool",
    "/var/mail",
    "/var/backups",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/postgresql",
    "/var/lib/mysql",
    "/var/lib/prometheus",
    "/var/lib/systemd/coredump",
    "/var/lib/dhcp",
    "/var/lib/NetworkManager",
    "/var/lib/chrony",
    "/var/lib/logrotate",
    "/var/lib/apt/lists",
    "/var/lib/sss",
    "/usr/local/share/app",
    "/lost\\+found",
];
const CONTENTS: [&str; 12] = [
    "/var/lib/dpkg/updates",
    "/var/lib/ucf",
    "/etc/ssl/private",
    "/etc/letsencrypt",
    "/etc/wireguard",
    "/etc/lvm/archive",
    "/etc/lvm/backup",
    "/boot/grub",
    "/usr/lib/firmware/local",
    "/var/lib/random-seed",
    "/opt/vendor",
    "/etc/udev/hwdb.d",
];
const FILES: [&str; 30] = [
    "/etc/hostname",
    "/etc/hosts",
    "/etc/machine-id",
    "/etc/mtab",
    "/etc/fstab",
    "/etc/adjtime",
    "/etc/resolv.conf",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/.pwd.lock",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/network/interfaces",
    "/etc/ssh/ssh_host_rsa_key",
    "/etc/ssh/ssh_host_rsa_key.pub",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/etc/ssh/ssh_host_ecdsa_key",
    "/swapfile",
    "/etc/ssh/ssh_host_ecdsa_key.pub",
    "/etc/crypttab",
    "/etc/iscsi/initiatorname.iscsi",
    "/boot/initrd.img",
    "/etc/multipath/wwids",
    "/forcefsck",
    "/.autorelabel",
    "/var/lib/urandom/seed",
];
const OTHERS: [&str; 28] = [
    "/.*[.]pyc$",
    "/.*[.]pyo$",
    ".*~$",
    "/.*[.]dpkg-(old|new|dist|tmp)$",
    "/.*[.]ucf-(old|dist)$",
    "/.*[.]swp$",
    "/.*[.]bak$",
    "/.*/__pycache__(|/.*)$",
    "/.*/[.]git(|/.*)$",
    "/.*/node_modules/.*",
    "/.*/lost[+]found(|/.*)$",
    "/.*[.]orig$",
    "/etc/[m]td$",
    "/etc/rc[0-6S][.]d/.*",
    "/dev/tty[0-9]",
    "/usr/lib/modules/[^/]+/modules[.][a-z.]+$",
    "/usr/lib/python3[.][0-9]+/site-packages/.*",
    "/home/[^/]+/[.]cache(|/.*)$",
    "/usr/share/man/[^/]+/man[0-9]/.*[.]gz$",
    "/etc/(passwd|shadow|group|gshadow)[.]lock$",
    "/var/lib/(dpkg|apt)/lock$",
    "/etc/cron[.](d|daily|hourly)/local-.*",
    "/usr/share/locale/(?:zh|ja|ko)_[A-Z]+/.*",
    "/var/log/.*[.]gz$",
    "/etc/ssl/certs/[0-9a-f]{8}[.][0-9]$",
    "/usr/share/doc/.*[.]gz$",
    "/etc/systemd/system/.*[.]wants/local-.*",
    "/boot/vmlinuz-.*[.]old$",
];

fn paths() -> Vec<Box<[u8]>> {
    let mut names = Vec::new();
    match std::env::var_os("DOMINATOR_BENCH_TREE") {
        Some(tree) => walk(Path::new(&tree), Path::new(&tree), &mut names),
        None => names = sample(),
    }
    assert!(!names.is_empty());
    // The same tree again under other names of its last component, until there are enough.
    let varied = (0..).flat_map(|round: usize| {
        names.iter().map(move |name| match round {
            0 => name.clone(),
            _ => [&name[..], format!("-{round}").as_bytes()].concat().into(),
        })
    });
    varied.take(PATHS).collect()
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<Box<[u8]>>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.map(Result::unwrap) {
        let path = entry.path();
        let inside = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        found.push([b"/", inside].concat().into());
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, found);
        }
    }
}

/// Directories of a Debian system, how many entries in a hundred are below each, and how files there are called.
const PLACES: [(&str, usize, [&str; 4]); 16] = [
    ("/usr/share/doc/{p}", 16, ["changelog.Debian.gz", "copyright", "README.gz", "NEWS.Debian.gz"]),
    ("/usr/share/man/{l}/man1", 6, ["{p}.1.gz", "{p}-config.1.gz", "{p}d.1.gz", "{p}.conf.1.gz"]),
    ("/usr/share/locale/{l}/LC_MESSAGES", 12, ["{p}.mo", "{p}-utils.mo", "lib{p}.mo", "{p}-2.0.mo"]),
    ("/usr/lib/python3/dist-packages/{p}", 8, ["__init__.py", "utils.py", "core.py", "version.py"]),
    (
        "/usr/lib/python3/dist-packages/{p}/__pycache__",
        4,
        ["__init__.cpython-311.pyc", "a.pyc", "b.pyc", "c.pyc"],
    ),
    ("/usr/lib/x86_64-linux-gnu", 8, ["lib{p}.so.1", "lib{p}.so.1.2.3", "lib{p}-2.0.so.0", "lib{p}.a"]),
    (
        "/usr/lib/modules/6.1.0-18-amd64/kernel/drivers/{p}",
        6,
        ["{p}.ko", "{p}_core.ko", "{p}_usb.ko", "{p}_pci.ko"],
    ),
    ("/usr/share/zoneinfo/{p}", 3, ["Berlin", "Paris", "New_York", "Indiana"]),
    ("/usr/share/icons/hicolor/48x48/apps", 5, ["{p}.png", "{p}-viewer.png", "org.{p}.png", "{p}-tray.svg"]),
    ("/usr/include/{p}", 9, ["config.h", "{p}.h", "types.h", "api.h"]),
    ("/usr/bin", 4, ["{p}", "{p}ctl", "{p}-config", "x86_64-linux-gnu-{p}"]),
    ("/etc/{p}", 5, ["{p}.conf", "local.conf", "conf.d", "{p}.conf.dpkg-old"]),
    ("/var/lib/dpkg/info", 6, ["{p}.list", "{p}.md5sums", "{p}.postinst", "lib{p}.triggers"]),
    ("/var/lib/{p}", 3, ["state", "db.sqlite", "lock", "cache.db~"]),
    ("/var/log/{p}", 2, ["error.log", "access.log.2.gz", "access.log", "debug"]),
    ("/srv/www/{p}/node_modules/.bin", 3, ["{p}", "build", "lint", "index.js"]),
];
const PACKAGES: [&str; 24] = [
    "adduser",
    "apache2",
    "apt",
    "bash",
    "coreutils",
    "cron",
    "curl",
    "dbus",
    "dpkg",
    "e2fsprogs",
    "glib",
    "gnutls",
    "grep",
    "iproute2",
    "krb5",
    "libxml2",
    "nginx",
    "openssh",
    "openssl",
    "perl",
    "postgresql",
    "python",
    "systemd",
    "util-linux",
];
const LANGUAGES: [&str; 12] =
    ["de", "fr", "es", "it", "ja", "zh_CN", "zh_TW", "pt_BR", "ru", "sv", "pl", "ko"];

fn sample() -> Vec<Box<[u8]>> {
    let mut state = 1_u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let places: Vec<_> = PLACES.iter().flat_map(|place| std::iter::repeat_n(place, place.1)).collect();
    let mut one = || {
        let (directory, _, names) = places[next(places.len())];
        let package = format!("{}{}", PACKAGES[next(PACKAGES.len())], next(200));
        let language = LANGUAGES[next(LANGUAGES.len())];
        let path = format!("{directory}/{}", names[next(names.len())]);
        path.replace("{p}", &package).replace("{l}", language).into_bytes().into_boxed_slice()
    };
    (0..PATHS).map(|_| one()).collect()
}

criterion_group!(benches, filter);
criterion_main!(benches);

//! A server with many images, each of which differs from the one before in one file of a hundred.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use dominator_benches::bare;
use dominator_benches::contender::{Series, run};
use dominator_benches::table::{Bar, Unit};
use dominator_core::port::ImageStore as _;
use dominator_rpc::client::RemoteImages;

use crate::disk::{Disks, settle};
use crate::server::Servers;

/// Every so many files one changes.
const SPREAD: usize = 100;

/// Once.
pub(crate) fn measure(
    servers: &Servers,
    disks: &Disks,
    a: &Path,
    images: u32,
) -> (Vec<Bar>, Option<Vec<Series>>) {
    let (store, disk) = (disks.mount("many"), disks.mount("tree"));
    let (state, tree) = (store.path().join("state"), disk.path().join("tree"));
    run(Command::new("cp").args(["-a", "--no-target-directory"]).arg(a).arg(&tree));
    let mut files = bare::files(&tree).unwrap();
    files.retain(|path| path.metadata().is_ok_and(|file| file.nlink() == 1 && file.len() >= 8));
    files.sort();
    let server = servers.start(&state);
    server.add("many/0", &tree);
    let mut unique = contents(servers);
    for number in 1..images {
        unique += change(&files, number);
        server.add(&format!("many/{number}"), &tree);
    }
    server.end();
    settle();
    let stored = size(&state);
    let server = servers.start(&state);
    let bars = bars(images, stored.saturating_sub(unique), &server);
    server.end();
    (bars, None)
}

fn bars(images: u32, metadata: u64, server: &crate::server::Server<'_>) -> Vec<Bar> {
    let work = |what: &str| format!("{images} images: {what}");
    let mebibytes = |bytes: u64| f64::from(u32::try_from(bytes >> 10).unwrap()) / 1024.0;
    let each = metadata / u64::from(images);
    let memory = server.memory("VmHWM");
    let start = server.start.as_secs_f64();
    eprintln!("{images} images: {each} B of metadata each, {memory} B of memory, {start:.3} s");
    let listens = "from exec to listening".into();
    vec![
        Bar::at_most(
            &work("memory"),
            "VmHWM after the start".into(),
            mebibytes(memory),
            200.0,
            Unit::Mebibytes,
        ),
        Bar::at_most(&work("start"), listens, start, 2.0, Unit::Seconds),
        Bar::at_most(
            &work("metadata of each"),
            "lengths of all files of the state less unique contents".into(),
            f64::from(u32::try_from(each).unwrap()),
            200_000.0,
            Unit::Bytes,
        ),
    ]
}

/// How many bytes the first image has, each content counted once.
fn contents(servers: &Servers) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let images = RemoteImages::connect(&servers.tls(), servers.address()).await.unwrap();
        images.tree(&"many/0".parse().unwrap()).await.unwrap().objects().values().sum()
    })
}

/// Gives one file of a hundred contents nothing had before; how many bytes these are.
fn change(files: &[PathBuf], number: u32) -> u64 {
    let first = usize::try_from(number).unwrap() % SPREAD;
    let mut bytes = 0;
    for (index, path) in (0_u32..).zip(files.iter().skip(first).step_by(SPREAD)) {
        // Also where the file was like another before: the numbers make it another for good.
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all(&[number.to_be_bytes(), index.to_be_bytes()].concat()).unwrap();
        bytes += file.metadata().unwrap().len();
    }
    bytes
}

fn size(directory: &Path) -> u64 {
    bare::files(directory).unwrap().iter().map(|path| path.metadata().unwrap().len()).sum()
}

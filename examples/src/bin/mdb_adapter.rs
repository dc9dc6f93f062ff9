//! A machine data base of one's own: [`CsvFile`] makes machines of lines `host,address,image`, and a controller takes
//! them from it as from any other [`MachineSource`].
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use dominator_core::machine::{Machine, Mdb};
use dominator_core::port::{Cause, MachineSource, MachineSourceError};

/// A CSV file, read again ten times a second.
struct CsvFile {
    path: PathBuf,
    /// What it said when it was last looked at, right or wrong: nothing is reported twice.
    seen: Option<Result<String, io::ErrorKind>>,
    /// What was last returned.
    known: Option<Mdb>,
}

#[async_trait]
impl MachineSource for CsvFile {
    async fn next(&mut self) -> Result<Mdb, MachineSourceError> {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            let path = self.path.clone();
            let look = tokio::task::spawn_blocking(move || read(&path).map_err(|error| error.kind()));
            let looked = look.await.unwrap_or(Err(io::ErrorKind::Other));
            // Nothing is awaited from here on: who cancels the call before misses nothing, and after can't.
            if self.seen.as_ref() == Some(&looked) {
                continue;
            }
            let text = self.seen.insert(looked).as_ref();
            let mdb = text.map_err(|kind| Cause::new(io::Error::from(*kind))).and_then(|text| parse(text));
            let mdb = mdb.map_err(|cause| MachineSourceError {
                what: format!("can't use the machine data base {}", self.path.display()),
                cause,
            })?;
            if self.known.as_ref() != Some(&mdb) {
                return Ok(self.known.insert(mdb).clone());
            }
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    const LIMIT: u64 = 64 * 1024 * 1024;
    let mut text = String::new();
    if std::fs::File::open(path)?.take(LIMIT + 1).read_to_string(&mut text)? as u64 > LIMIT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// All of the file or nothing of it: half a fleet must not vanish over a typing error.
fn parse(text: &str) -> Result<Mdb, Cause> {
    let mut mdb = Mdb::default();
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: &str| Cause::new(format!("line {}: {what}: {line:?}", number + 1));
        let fields: Vec<_> = line.split(',').map(str::trim).collect();
        let [host, address, image] = fields.as_slice() else { return Err(wrong("not host,address,image")) };
        let mut machine = Machine::named(host);
        machine.ip_address = Some((*address).to_owned()).filter(|address| !address.is_empty());
        machine.required_image = Some(image.parse().map_err(|_| wrong("no name of an image"))?);
        if host.is_empty() || mdb.machines.insert((*host).to_owned(), machine).is_some() {
            return Err(wrong("a machine without a name or with another's"));
        }
    }
    Ok(mdb)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("machines.csv");
    let mut source: Box<dyn MachineSource> =
        Box::new(CsvFile { path: path.clone(), seen: None, known: None });
    let mut before = Mdb::default();
    for text in [
        "web1,10.0.0.1,web/1\nweb2,10.0.0.2,web/1\ndb1,,db/7\n",
        "web1,10.0.0.1,web/2\nweb2,10.0.0.2 web/2\n",
        "web1,10.0.0.1,web/2\nweb2,10.0.0.2,web/1\nweb3,10.0.0.3,web/2\n",
    ] {
        std::fs::write(directory.path().join("new"), text)?;
        std::fs::rename(directory.path().join("new"), &path)?;
        match source.next().await {
            Ok(mdb) => {
                println!("{} machines", mdb.machines.len());
                print_changes(&before, &mdb);
                before = mdb;
            }
            Err(error) => println!("{error}: {}; the machines stay what they were", error.cause),
        }
    }
    Ok(())
}

fn print_changes(before: &Mdb, after: &Mdb) {
    for (host, machine) in after.machines.iter().filter(|(host, new)| before.machines.get(*host) != Some(new))
    {
        let word = if before.machines.contains_key(host) { "changed" } else { "added" };
        let image = machine.required_image.as_ref().map_or("nothing", |image| image.as_str());
        println!("  {word} {host} at {}, which must be {image}", machine.dial_host());
    }
    for host in before.machines.keys().filter(|host| !after.machines.contains_key(*host)) {
        println!("  removed {host}");
    }
}

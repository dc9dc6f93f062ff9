use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use dominator_core::filter::Filter;
use dominator_core::tree::Snapshot;
use dominator_daemon::{During, Failure};
use dominator_fs::import::{self, Imported, ObjectSink};
use dominator_fs::root::Root;
use dominator_fs::scan::Cancel;

/// Where an image comes from: a directory or a tar archive. Neither is ever written to.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    path: PathBuf,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Directory(Root),
    Archive,
}

impl Source {
    /// Finds out what is at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let what = || format!("can't use {} as an image", path.display());
        let form = if std::fs::metadata(path).during(what)?.is_dir() {
            Form::Directory(Root::open(path).during(what)?)
        } else {
            Form::Archive
        };
        Ok(Self { path: path.to_owned(), form })
    }

    /// The image's tree. What `filter` matches is left out.
    pub(crate) fn tree(&self, filter: &Filter, cancel: &Cancel) -> Result<Imported, Failure> {
        self.import(filter, cancel, &mut import::Nowhere).during(|| self.what())
    }

    /// Gives the sink the contents of files: those it wants of the `tree` that [`Source::tree`] made. Of an archive,
    /// the sink is also offered whatever else is in it.
    pub(crate) fn contents(
        &self,
        tree: &Snapshot,
        filter: &Filter,
        cancel: &Cancel,
        sink: &mut dyn ObjectSink,
    ) -> Result<(), Failure> {
        match &self.form {
            Form::Directory(root) => import::contents(root, tree, cancel, sink),
            Form::Archive => self.import(filter, cancel, sink).map(drop),
        }
        .during(|| self.what())
    }

    fn what(&self) -> String {
        format!("can't use {} as an image", self.path.display())
    }

    fn import(
        &self,
        filter: &Filter,
        cancel: &Cancel,
        sink: &mut dyn ObjectSink,
    ) -> Result<Imported, import::ImportError> {
        match &self.form {
            Form::Directory(root) => import::directory(root, filter, cancel, sink),
            Form::Archive => {
                let input = import::ImportError::Input;
                let archive = io::BufReader::with_capacity(READ, File::open(&self.path).map_err(input)?);
                let spool = tempfile::tempfile().map_err(import::ImportError::Spool)?;
                import::tar(archive, filter, spool, sink)
            }
        }
    }
}

/// How much of an archive is read at a time, in bytes.
const READ: usize = 256 * 1024;

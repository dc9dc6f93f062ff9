//! What may have taken certificates back.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use dominator_pki::files::MAX_LIST_FILE;
use dominator_pki::keystore::{self, IdentityFile};
use dominator_pki::{Certificate, DenyList, Origin, PkiError, Revocation};

/// Lists of revoked certificates and a deny list.
#[derive(Debug)]
pub struct Revocations {
    /// All of them.
    pub revocation: Revocation,
    /// The authorities that stand behind the lists.
    pub authorities: Vec<Certificate>,
}

impl Revocations {
    /// Reads `lists`, which authorities in `ca_file` must have signed, and the deny list.
    ///
    /// # Errors
    /// [`PkiError`], naming the file. A list that does not count is an error: its silence would be taken for a no.
    pub fn read(lists: &[PathBuf], denied: Option<&Path>, ca_file: &Path) -> Result<Self, PkiError> {
        let mut read = Self { revocation: Revocation::default(), authorities: Vec::new() };
        if !lists.is_empty() {
            let trust = keystore::load_trust(ca_file, IdentityFile::None)?;
            read.authorities = keystore::load_certificates(ca_file)?;
            for path in lists {
                let refused =
                    read.revocation.read_lists(&trust, &bytes(path)?, &Origin::from(path.as_path()))?;
                if let Some(error) = refused.into_iter().next() {
                    return Err(error);
                }
            }
        }
        if let Some(path) = denied {
            read.revocation.deny(DenyList::parse(&bytes(path)?, &Origin::from(path))?);
        }
        Ok(read)
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, PkiError> {
    let failed = |source| PkiError::Read { path: path.into(), source };
    let mut bytes = Vec::new();
    let limit = MAX_LIST_FILE;
    File::open(path).map_err(failed)?.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(PkiError::TooLong { origin: path.into(), limit });
    }
    Ok(bytes)
}

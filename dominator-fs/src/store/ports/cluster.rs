use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::port::{self, Cause, ClusterStoreError, Revision};

use crate::store::cluster::DirectoryClusterStore;

#[async_trait]
impl port::ClusterStore for DirectoryClusterStore {
    async fn value(&self, key: &str) -> Result<Option<(Bytes, Revision)>, ClusterStoreError> {
        let (store, key) = (self.clone(), key.to_owned());
        let value = run(move || store.value(&key)).await?;
        Ok(value.map(|(value, revision)| (value.into(), revision)))
    }

    async fn set(
        &self,
        key: &str,
        value: Bytes,
        expected: Option<Revision>,
    ) -> Result<Revision, ClusterStoreError> {
        let (store, key) = (self.clone(), key.to_owned());
        run(move || store.set(&key, &value, expected)).await
    }
}

/// These are few and small: they need no share of their own.
async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClusterStoreError> + Send + 'static,
) -> Result<T, ClusterStoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ClusterStoreError::Failed {
        what: "work on the state of the fleet was given up".into(),
        cause: Cause::new(error),
    })?
}

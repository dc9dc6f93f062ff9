use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::catalog::{Catalog, Entry, Epoch, ExpiryChange, Latest, Position, Removal, Selection};
use dominator_core::image::{Image, ImageName};
use dominator_core::namespace::{DirectoryName, GroupName, ImageDirectory};
use dominator_core::object::ObjectId;
use dominator_core::port::{
    Cause, ImageError, ImageStore, ImageUpdates, ObjectSource, ObjectSources, ObjectStore, Parents, Piece,
    Pieces, StoreError, Verified,
};
use dominator_core::tree::{Directories as _, Directory, DirectoryId, DirectoryMap, LinkSets, Snapshot};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

/// Objects in memory.
#[derive(Debug, Default)]
pub struct MemoryObjects(Mutex<BTreeMap<ObjectId, Bytes>>);

impl MemoryObjects {
    /// Keeps `bytes` and says under which id.
    pub fn put(&self, bytes: impl Into<Bytes>) -> ObjectId {
        let bytes = bytes.into();
        let id = ObjectId::of(&bytes);
        self.lie(id, bytes);
        id
    }

    /// Keeps `bytes` under an id that is not theirs, as a broken or hostile store would.
    pub fn lie(&self, id: ObjectId, bytes: impl Into<Bytes>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, bytes.into());
    }

    /// The bytes of an object.
    pub fn bytes(&self, id: &ObjectId) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Keeps the hard links and directories of a tree.
    pub fn put_tree(&self, tree: &Snapshot) {
        self.put(tree.links.encode());
        for (_, directory) in tree.directories.iter() {
            self.put(directory.encoded().clone());
        }
    }

    fn tree(&self, image: &Image) -> Result<Snapshot, ObjectId> {
        let links = self.bytes(&image.tree.links.0).ok_or(image.tree.links.0)?;
        let links = LinkSets::decode(&links).map_err(|_| image.tree.links.0)?;
        let mut directories = DirectoryMap::default();
        let mut left: Vec<DirectoryId> = image.tree.root.directory().into_iter().collect();
        while let Some(id) = left.pop() {
            if directories.directory(&id).is_none() {
                let bytes = self.bytes(&id.0).ok_or(id.0)?;
                let directory = Directory::decode(bytes).map_err(|_| id.0)?;
                left.extend(directory.iter().filter_map(|entry| entry.directory()));
                directories.insert(directory);
            }
        }
        Ok(Snapshot { tree: image.tree.clone(), links, directories })
    }
}

#[async_trait]
impl ObjectSource for MemoryObjects {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let mut pieces = Vec::new();
        for id in wanted {
            let bytes = self.bytes(&id).ok_or(StoreError::NotFound { id })?;
            pieces.push(Piece::Begin { id, size: length(&bytes) });
            pieces
                .extend(bytes.chunks(Piece::MAX_DATA).map(|part| Piece::Data(Bytes::copy_from_slice(part))));
        }
        Ok(Pieces::new(stream::iter(pieces.into_iter().map(Ok))))
    }
}

#[async_trait]
impl ObjectStore for MemoryObjects {
    async fn sizes(&self, ids: &[ObjectId]) -> Result<Vec<Option<u64>>, StoreError> {
        Ok(ids.iter().map(|id| self.bytes(id).map(|bytes| length(&bytes))).collect())
    }

    async fn add(&self, mut pieces: Pieces) -> Result<Vec<Verified>, StoreError> {
        let mut added = Vec::new();
        let mut current: Option<(ObjectId, u64, Vec<u8>)> = None;
        loop {
            let piece = pieces.try_next().await?;
            if let Some(Piece::Data(data)) = piece {
                let out_of_place = || StoreError::Protocol("data before any object".into());
                current.as_mut().ok_or_else(out_of_place)?.2.extend_from_slice(&data);
                continue;
            }
            if let Some((id, size, bytes)) = current.take() {
                added.push(Verified::check(id, size, ObjectId::of(&bytes), length(&bytes))?);
                self.put(bytes);
            }
            match piece {
                Some(Piece::Begin { id, size }) => current = Some((id, size, Vec::new())),
                Some(Piece::Data(_)) | None => return Ok(added),
            }
        }
    }
}

/// Images in memory, beside the objects of theirs.
#[derive(Debug)]
pub struct MemoryImages {
    objects: Arc<MemoryObjects>,
    images: Mutex<BTreeMap<ImageName, Arc<Image>>>,
    deleted: Mutex<BTreeSet<ImageName>>,
    /// All but the root, which belongs to nobody.
    directories: Mutex<BTreeMap<DirectoryName, Option<GroupName>>>,
    catalog: Catalog,
}

impl MemoryImages {
    /// No images yet.
    pub fn new(objects: Arc<MemoryObjects>) -> Self {
        let catalog = Catalog::new(Epoch(1), Catalog::LOG);
        let (images, deleted, directories) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { objects, images, deleted, directories, catalog }
    }
}

#[async_trait]
impl ImageStore for MemoryImages {
    async fn list(&self) -> Result<Vec<ImageName>, ImageError> {
        Ok(self.images.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect())
    }

    async fn image(&self, name: &ImageName) -> Result<Arc<Image>, ImageError> {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.get(name).cloned().ok_or_else(|| ImageError::NotFound { name: name.clone() })
    }

    async fn tree(&self, name: &ImageName) -> Result<Arc<Snapshot>, ImageError> {
        let image = self.image(name).await?;
        let tree = self.objects.tree(&image).map_err(|first| ImageError::Incomplete { first, count: 1 })?;
        tree.verify(u64::MAX).map_err(|error| ImageError::Malformed(Cause::new(error)))?;
        Ok(Arc::new(tree))
    }

    async fn add(&self, name: &ImageName, image: Image) -> Result<(), ImageError> {
        let tree = self.objects.tree(&image).map_err(|first| ImageError::Incomplete { first, count: 1 })?;
        let missing: Vec<_> =
            tree.objects().into_keys().filter(|id| self.objects.bytes(id).is_none()).collect();
        if let Some(first) = missing.first() {
            return Err(ImageError::Incomplete { first: *first, count: missing.len() });
        }
        if self.deleted.lock().unwrap_or_else(PoisonError::into_inner).contains(name) {
            return Err(ImageError::Deleted { name: name.clone() });
        }
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if images.contains_key(name) {
            return Err(ImageError::Exists { name: name.clone() });
        }
        let entry = Entry::of(&image);
        images.insert(name.clone(), Arc::new(image));
        self.make_directories(&name.directory());
        self.catalog.put(name, entry);
        Ok(())
    }

    async fn delete(&self, name: &ImageName) -> Result<(), ImageError> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.remove(name).ok_or_else(|| ImageError::NotFound { name: name.clone() })?;
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        self.catalog.remove(name, Removal::Deleted);
        Ok(())
    }

    async fn directories(&self) -> Result<Vec<ImageDirectory>, ImageError> {
        let root = ImageDirectory { name: DirectoryName::ROOT, owner_group: None };
        let directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        let below = directories.iter().map(|(name, owner_group)| ImageDirectory {
            name: name.clone(),
            owner_group: owner_group.clone(),
        });
        Ok(std::iter::once(root).chain(below).collect())
    }

    async fn directory(&self, name: &DirectoryName) -> Result<ImageDirectory, ImageError> {
        let found = self.directories().await?.into_iter().find(|directory| directory.name == *name);
        found.ok_or_else(|| ImageError::NoDirectory { name: name.clone() })
    }

    async fn make_directory(&self, name: &DirectoryName, parents: Parents) -> Result<(), ImageError> {
        if parents == Parents::Required {
            self.directory(&name.parent().unwrap_or_default()).await?;
            if self.directory(name).await.is_ok() {
                return Err(ImageError::DirectoryExists { name: name.clone() });
            }
        }
        self.make_directories(name);
        Ok(())
    }

    async fn chown_directory(
        &self,
        name: &DirectoryName,
        group: Option<GroupName>,
    ) -> Result<(), ImageError> {
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = directories.get_mut(name);
        (*owner.ok_or_else(|| ImageError::NoDirectory { name: name.clone() })?).clone_from(&group);
        self.catalog.put_directory(ImageDirectory { name: name.clone(), owner_group: group });
        Ok(())
    }

    async fn delete_directory(&self, name: &DirectoryName) -> Result<(), ImageError> {
        let used = |images: Vec<ImageName>| images.iter().any(|image| image.directory() == *name);
        let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let images = self.list().await?;
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        if used(images) || used(deleted) || directories.keys().any(|it| it.parent().as_ref() == Some(name)) {
            return Err(ImageError::DirectoryNotEmpty { name: name.clone() });
        }
        directories.remove(name).ok_or_else(|| ImageError::NoDirectory { name: name.clone() })?;
        self.catalog.remove_directory(name);
        Ok(())
    }

    async fn select(&self, selection: &Selection) -> Result<Vec<ImageName>, ImageError> {
        Ok(selection.of(&self.catalog.images()))
    }

    async fn latest(&self, wanted: &Latest) -> Result<Option<ImageName>, ImageError> {
        Ok(wanted.of(&self.catalog.images()))
    }

    async fn updates(
        &self,
        selection: &Selection,
        from: Option<Position>,
    ) -> Result<ImageUpdates, ImageError> {
        Ok(ImageUpdates::new(self.catalog.follow(selection.clone(), from).map(Ok)))
    }

    async fn appears(&self, name: &ImageName) -> Result<(), ImageError> {
        self.catalog.appears(name).await;
        Ok(())
    }

    async fn change_expiry(&self, name: &ImageName, change: &ExpiryChange) -> Result<(), ImageError> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let image = images.get_mut(name).ok_or_else(|| ImageError::NotFound { name: name.clone() })?;
        change.judge(image.expires_at)?;
        Arc::make_mut(image).expires_at = change.to;
        self.catalog.put(name, Entry::of(image));
        Ok(())
    }

    async fn expire(&self, now: u64) -> Result<Option<u64>, ImageError> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        for name in self.catalog.ended(now) {
            images.remove(&name);
            self.catalog.remove(&name, Removal::Expired);
        }
        Ok(self.catalog.next_end())
    }
}

impl MemoryImages {
    /// Makes what is missing, each of the group of the one it is in.
    fn make_directories(&self, name: &DirectoryName) {
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing: Vec<_> = std::iter::successors(Some(name.clone()), DirectoryName::parent)
            .take_while(|name| !name.is_root() && !directories.contains_key(name))
            .collect();
        while let Some(name) = missing.pop() {
            let group = name.parent().and_then(|parent| directories.get(&parent).cloned().flatten());
            directories.insert(name.clone(), group.clone());
            self.catalog.put_directory(ImageDirectory { name, owner_group: group });
        }
    }
}

/// Sources by address.
#[derive(Clone, Default)]
pub struct NamedSources(pub BTreeMap<String, Arc<MemoryObjects>>);

#[async_trait]
impl ObjectSources for NamedSources {
    async fn source(&self, address: &str) -> Result<Arc<dyn ObjectSource>, StoreError> {
        match self.0.get(address) {
            Some(source) => Ok(source.clone()),
            None => Err(StoreError::Unreachable(Cause::new(format!("nothing is at {address}")))),
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("invariant: no platform has lengths of more than 64 bits")
}

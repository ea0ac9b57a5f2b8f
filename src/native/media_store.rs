//! Where media lies: in the data directory, or in a service elsewhere.

use std::{path::Path, rc::Rc};

use domain::config::OutgoingRules;
use platform::{Blobs, Fault};

use crate::{
    media_files::MediaFiles,
    media_s3::{S3Bucket, S3Options},
};

/// What all threads reach media with.
#[derive(Clone)]
pub(crate) enum MediaStore {
    Files(MediaFiles),
    S3(S3Bucket),
}

impl MediaStore {
    /// The store that the options name, ready to be used.
    ///
    /// # Errors
    /// It is not there, or may not be used.
    pub(crate) async fn open(data_dir: &Path, options: &S3Options, rules: &OutgoingRules) -> Result<Self, Fault> {
        match S3Bucket::named(options, rules)? {
            Some(bucket) => {
                bucket.clone().clear().await?;
                Ok(Self::S3(bucket))
            }
            None => MediaFiles::open(data_dir).map(Self::Files),
        }
    }

    /// One thread's way there.
    pub(crate) fn connect(self) -> Rc<dyn Blobs> {
        match self {
            Self::Files(files) => Rc::new(files),
            Self::S3(bucket) => Rc::new(bucket.connect()),
        }
    }
}

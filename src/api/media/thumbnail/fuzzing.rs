//! Pictures of strangers, for the fuzzer: see [`crate::fuzzing`].

use super::{
    moving,
    picture::{Picture, Unfit},
    sizes::{Made, Method, Size},
};
use crate::fuzzing::Target;

pub(crate) const TARGETS: &[Target] = &[("picture", PICTURES, picture)];

const PICTURES: &[&[u8]] = &[
    include_bytes!("samples/baseline.jpg"),
    include_bytes!("samples/progressive.jpg"),
    include_bytes!("samples/palette.png"),
    include_bytes!("samples/alpha.png"),
    include_bytes!("samples/moving.gif"),
    include_bytes!("samples/moving.webp"),
    include_bytes!("samples/lossy.webp"),
    include_bytes!("samples/lossless.webp"),
];

const SIZE: Size = Size { method: Method::Crop, width: 8, height: 8 };

/// Whatever it is, it is a picture or it is not: nothing panics, and what is made is one.
fn picture(bytes: &[u8]) {
    let made = || {
        let picture = Picture::of(bytes)?;
        let moving = if picture.is_animated { moving::thumbnail(&picture, bytes, SIZE)? } else { None };
        Ok::<_, Unfit>([Some(picture.thumbnail(bytes, Made::Sized(SIZE))?), moving])
    };
    for made in made().into_iter().flatten().flatten() {
        assert!(Picture::of(&made).is_ok());
    }
}

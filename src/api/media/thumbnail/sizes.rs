//! Which thumbnails are made: a few sizes, whatever is asked for. Spec: "Thumbnails".

use std::fmt;

/// How a thumbnail comes to its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// As much of the picture as has the asked-for shape.
    Crop,
    /// The whole picture, which fits into what was asked for.
    Scale,
}

/// A size of thumbnails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub method: Method,
    pub width: u32,
    pub height: u32,
}

/// What is made of a picture for who asked for some size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    Sized(Size),
    /// More was asked for than we make: the picture as it is.
    Whole,
}

/// Spec: "Servers SHOULD produce thumbnails with the following dimensions and methods". The last is for screens that
/// have two pixels where others have one.
const SCALED: [(u32, u32); 4] = [(320, 240), (640, 480), (800, 600), (1600, 1200)];
/// The longer sides of what is cropped; the specification's two, what profiles show, and what screens do.
const CROPPED: [u32; 6] = [32, 96, 320, 640, 1280, 1920];
/// What is cropped and longer is large.
const LARGE: u32 = 640;
/// The shorter side is so many of these parts of the longer one: who asks for another shape gets the nearest that is
/// not smaller.
const SHAPES: u32 = 16;

impl Size {
    /// The smallest of ours that is not smaller.
    pub(super) fn made(self) -> Made {
        let Self { method, width, height } = self;
        let made = match method {
            Method::Scale => {
                SCALED.into_iter().find(|(made_width, made_height)| width <= *made_width && height <= *made_height)
            }
            Method::Crop => {
                let (long, short) = (width.max(height), width.min(height));
                CROPPED.into_iter().find(|made| long <= *made).map(|made| {
                    let parts = u64::from(short) * u64::from(SHAPES);
                    let parts = u32::try_from(parts.div_ceil(u64::from(long.max(1)))).unwrap_or(SHAPES);
                    let shorter = (made / SHAPES * parts).max(1);
                    if width >= height { (made, shorter) } else { (shorter, made) }
                })
            }
        };
        made.map_or(Made::Whole, |(width, height)| Made::Sized(Self { method, width, height }))
    }

    /// The part of a picture that is shown, and the size it is shown at: never larger than it is.
    pub(super) fn of_picture(self, (width, height): (u32, u32)) -> Shown {
        // Sides are at most 2^32, their products fit.
        let scaled = |side: u32, by: u32, of: u32| {
            u32::try_from((u64::from(side) * u64::from(by)) / u64::from(of.max(1))).unwrap_or(side).max(1)
        };
        match self.method {
            Method::Scale => {
                let is_smaller = width <= self.width && height <= self.height;
                let by_width = (self.width, scaled(height, self.width, width));
                let size = match by_width {
                    _ if is_smaller => (width, height),
                    (_, height) if height <= self.height => by_width,
                    _ => (scaled(width, self.height, height), self.height),
                };
                Shown { left: 0, top: 0, width, height, size }
            }
            Method::Crop => {
                let is_wider = u64::from(width) * u64::from(self.height) > u64::from(height) * u64::from(self.width);
                let (shown_width, shown_height) = if is_wider {
                    (scaled(height, self.width, self.height).min(width), height)
                } else {
                    (width, scaled(width, self.height, self.width).min(height))
                };
                Shown {
                    left: (width - shown_width) / 2,
                    top: (height - shown_height) / 2,
                    width: shown_width,
                    height: shown_height,
                    size: (shown_width.min(self.width), shown_height.min(self.height)),
                }
            }
        }
    }
}

impl Made {
    /// Whether it is nearly as large as pictures are.
    pub(super) fn is_large(self) -> bool {
        match self {
            Made::Whole => true,
            Made::Sized(Size { method, width, height }) => method == Method::Crop && width.max(height) > LARGE,
        }
    }
}

/// A part of a picture, and the size it is shown at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
    pub size: (u32, u32),
}

impl fmt::Display for Made {
    /// Names what is made among all that are made of one picture.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Made::Sized(Size { method: Method::Crop, width, height }) => write!(f, "{width}x{height}-crop"),
            Made::Sized(Size { method: Method::Scale, width, height }) => write!(f, "{width}x{height}-scale"),
            Made::Whole => f.write_str("whole"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Made, Method, Size};

    fn size(method: Method, width: u32, height: u32) -> Size {
        Size { method, width, height }
    }

    #[test]
    fn what_is_made_is_not_smaller_than_what_is_asked_for() {
        for (method, asked, made) in [
            (Method::Crop, (32, 32), "32x32-crop"),
            (Method::Crop, (33, 33), "96x96-crop"),
            (Method::Crop, (96, 96), "96x96-crop"),
            (Method::Crop, (1, 1), "32x32-crop"),
            (Method::Crop, (100, 50), "320x160-crop"),
            (Method::Crop, (50, 100), "160x320-crop"),
            (Method::Crop, (96, 1), "96x6-crop"),
            (Method::Crop, (96, 95), "96x96-crop"),
            (Method::Crop, (641, 641), "1280x1280-crop"),
            (Method::Crop, (1920, 1080), "1920x1080-crop"),
            (Method::Crop, (1921, 1), "whole"),
            (Method::Scale, (1, 1), "320x240-scale"),
            (Method::Scale, (320, 240), "320x240-scale"),
            (Method::Scale, (320, 241), "640x480-scale"),
            (Method::Scale, (800, 600), "800x600-scale"),
            (Method::Scale, (1600, 1200), "1600x1200-scale"),
            (Method::Scale, (u32::MAX, 1), "whole"),
        ] {
            let made_of = size(method, asked.0, asked.1).made();
            assert_eq!(made_of.to_string(), made, "{asked:?}");
            if let Made::Sized(size) = made_of {
                assert!(size.width >= asked.0 && size.height >= asked.1, "{asked:?}");
            }
        }
    }

    #[test]
    fn nothing_is_made_larger_and_shapes_are_kept() {
        let scale = |picture| size(Method::Scale, 320, 240).of_picture(picture).size;
        for (picture, expected) in [
            ((3200, 2400), (320, 240)),
            ((1000, 1000), (240, 240)),
            ((1000, 10), (320, 3)),
            ((10_000, 1), (320, 1)),
            ((10, 1000), (2, 240)),
            ((320, 240), (320, 240)),
            ((20, 10), (20, 10)),
            ((320, 241), (318, 240)),
        ] {
            assert_eq!(scale(picture), expected, "{picture:?}");
        }
        let crop = |picture| {
            let shown = size(Method::Crop, 96, 96).of_picture(picture);
            assert!(shown.left + shown.width <= picture.0 && shown.top + shown.height <= picture.1);
            (shown.left, shown.top, shown.size)
        };
        for (picture, expected) in [
            ((300, 200), (50, 0, (96, 96))),
            ((200, 300), (0, 50, (96, 96))),
            ((96, 96), (0, 0, (96, 96))),
            ((20, 10), (5, 0, (10, 10))),
            ((1000, 50), (475, 0, (50, 50))),
            ((1, 1000), (0, 499, (1, 1))),
        ] {
            assert_eq!(crop(picture), expected, "{picture:?}");
        }
        let wide = size(Method::Crop, 320, 160).of_picture((1000, 1000));
        assert_eq!((wide.top, wide.height, wide.size), (250, 500, (320, 160)));
    }
}

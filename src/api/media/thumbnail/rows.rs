//! Making a picture smaller while its rows arrive: it is never whole in memory.

use std::ops::Range;

use image::{DynamicImage, Rgb, RgbImage, RgbaImage};

use super::sizes::Shown;

/// A picture that becomes smaller. What is transparent has no colour in it.
pub(super) struct Shrinking {
    shown: Shown,
    has_alpha: bool,
    /// Of each pixel of the row that is being made: the sums of its colours, each times its opacity, and of that.
    sums: Vec<[u64; 4]>,
    /// The row that is being made, and how many of the picture's are in it.
    row: u32,
    rows_in_it: u64,
    pixels: Vec<u8>,
}

impl Shrinking {
    /// `shown` is no larger than the part of the picture that it shows.
    pub(super) fn new(shown: Shown, has_alpha: bool) -> Self {
        let sums = vec![[0; 4]; shown.size.0 as usize];
        let of_pixel = if has_alpha { 4 } else { 3 };
        let size = (shown.size.0 as usize).saturating_mul(shown.size.1 as usize).saturating_mul(of_pixel);
        Self { shown, has_alpha, sums, row: 0, rows_in_it: 0, pixels: Vec::with_capacity(size) }
    }

    /// Whether this row is below everything that is shown.
    pub(super) fn is_below(&self, y: u32) -> bool {
        y >= self.shown.top.saturating_add(self.shown.height)
    }

    /// Which pixels of a row are shown.
    pub(super) fn columns(&self) -> Range<usize> {
        self.shown.left as usize..self.shown.left.saturating_add(self.shown.width) as usize
    }

    /// Takes what is shown of the row at `y`, as red, green, blue and opacity.
    pub(super) fn take(&mut self, y: u32, row: impl Iterator<Item = [u8; 4]>) {
        let Shown { top, width, height, size: (to_width, to_height), .. } = self.shown;
        let Some(y) = y.checked_sub(top).filter(|y| *y < height) else { return };
        let row_of_it = place(y, height, to_height);
        if row_of_it != self.row {
            self.end_row();
            self.row = row_of_it;
        }
        self.rows_in_it = self.rows_in_it.saturating_add(1);
        for ([red, green, blue, opacity], x) in row.zip(0..width) {
            let Some(sum) = self.sums.get_mut(place(x, width, to_width) as usize) else { return };
            let opacity = u64::from(opacity);
            for (sum, value) in sum.iter_mut().zip([red, green, blue]) {
                *sum = sum.saturating_add(u64::from(value).saturating_mul(opacity));
            }
            sum[3] = sum[3].saturating_add(opacity);
        }
    }

    fn end_row(&mut self) {
        let (width, to_width) = (self.shown.width, self.shown.size.0);
        for (x, sum) in (0..).zip(self.sums.iter_mut()) {
            let columns = begins(x + 1, width, to_width).saturating_sub(begins(x, width, to_width));
            let [red, green, blue, opacity] = std::mem::take(sum);
            let mean = |sum: u64, of: u64| u8::try_from((sum + of / 2) / of.max(1)).unwrap_or(u8::MAX);
            self.pixels.extend([red, green, blue].map(|sum| mean(sum, opacity)));
            if self.has_alpha {
                self.pixels.push(mean(opacity, u64::from(columns).saturating_mul(self.rows_in_it)));
            }
        }
        self.rows_in_it = 0;
    }

    /// The picture; `None` if rows are missing.
    pub(super) fn finish(mut self) -> Option<DynamicImage> {
        self.end_row();
        let (width, height) = self.shown.size;
        if self.has_alpha {
            RgbaImage::from_raw(width, height, self.pixels).map(DynamicImage::from)
        } else {
            RgbImage::from_raw(width, height, self.pixels).map(DynamicImage::from)
        }
    }
}

/// A smaller picture, of what is shown of a decoded one.
pub(super) fn shrunk(decoded: DynamicImage, shown: Shown) -> Option<DynamicImage> {
    if decoded.color().has_alpha() {
        return shrunk_frame(&decoded.into_rgba8(), shown).map(DynamicImage::from);
    }
    let mut shrinking = Shrinking::new(shown, false);
    for (y, row) in (0..).zip(decoded.into_rgb8().rows()) {
        let row = row.skip(shown.left as usize).map(|Rgb([red, green, blue])| [*red, *green, *blue, u8::MAX]);
        shrinking.take(y, row);
    }
    shrinking.finish()
}

/// As [`shrunk`], of one of many.
pub(super) fn shrunk_frame(frame: &RgbaImage, shown: Shown) -> Option<RgbaImage> {
    let mut shrinking = Shrinking::new(shown, true);
    for (y, row) in (0..).zip(frame.rows()) {
        shrinking.take(y, row.skip(shown.left as usize).map(|pixel| pixel.0));
    }
    shrinking.finish().map(DynamicImage::into_rgba8)
}

/// Which of fewer places something at a place belongs to.
fn place(at: u32, of: u32, to: u32) -> u32 {
    u32::try_from(u64::from(at) * u64::from(to) / u64::from(of.max(1))).unwrap_or(u32::MAX)
}

/// The first that belongs to a place.
fn begins(place: u32, of: u32, to: u32) -> u32 {
    u32::try_from((u64::from(place) * u64::from(of)).div_ceil(u64::from(to.max(1)))).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, GenericImageView, Rgba, RgbaImage, imageops};

    use super::{Shown, Shrinking};

    fn shrunk(picture: &RgbaImage, shown: Shown, has_alpha: bool) -> DynamicImage {
        let mut shrinking = Shrinking::new(shown, has_alpha);
        for (y, row) in (0..).zip(picture.rows()) {
            shrinking.take(y, row.skip(shown.left as usize).map(|pixel| pixel.0));
        }
        shrinking.finish().unwrap()
    }

    #[test]
    fn a_pixel_is_the_mean_of_those_in_its_place() {
        let picture = RgbaImage::from_fn(40, 30, |x, y| Rgba([x as u8 * 5, y as u8 * 8, 3, 255]));
        for (shown, expected) in [
            (Shown { left: 0, top: 0, width: 40, height: 30, size: (10, 10) }, [8, 8, 3]),
            (Shown { left: 4, top: 3, width: 20, height: 20, size: (10, 5) }, [23, 36, 3]),
            (Shown { left: 0, top: 0, width: 40, height: 30, size: (40, 30) }, [0, 0, 3]),
            (Shown { left: 39, top: 29, width: 1, height: 1, size: (1, 1) }, [195, 232, 3]),
        ] {
            let size = shown.size;
            let small = shrunk(&picture, shown, false);
            assert_eq!((small.dimensions(), small.as_rgb8().unwrap().get_pixel(0, 0).0), (size, expected));
        }
        let whole = Shown { left: 0, top: 0, width: 40, height: 30, size: (40, 30) };
        assert_eq!(shrunk(&picture, whole, true).as_rgba8().unwrap(), &picture);
        // Where nothing is even, every pixel is still in one place.
        let uneven = Shown { left: 0, top: 0, width: 40, height: 30, size: (17, 13) };
        let mean = |picture: &RgbaImage| {
            picture.pixels().map(|pixel| u32::from(pixel.0[0])).sum::<u32>() / (picture.width() * picture.height())
        };
        let small = shrunk(&picture, uneven, true).into_rgba8();
        assert!(mean(&small).abs_diff(mean(&picture)) <= 4);
        assert!(
            imageops::thumbnail(&picture, 17, 13)
                .pixels()
                .zip(small.pixels())
                .all(|(one, other)| one.0[0].abs_diff(other.0[0]) < 8)
        );
    }

    #[test]
    fn what_is_transparent_has_no_colour() {
        let picture =
            RgbaImage::from_fn(4, 4, |x, _| if x % 2 == 0 { Rgba([255, 0, 0, 0]) } else { Rgba([0, 0, 200, 255]) });
        let small = shrunk(&picture, Shown { left: 0, top: 0, width: 4, height: 4, size: (2, 2) }, true).into_rgba8();
        assert!(small.pixels().all(|pixel| pixel.0 == [0, 0, 200, 128]));
    }

    #[test]
    fn a_picture_without_all_its_rows_is_none() {
        let mut shrinking = Shrinking::new(Shown { left: 0, top: 0, width: 4, height: 4, size: (2, 2) }, false);
        shrinking.take(0, [[1; 4]; 4].into_iter());
        assert!(shrinking.finish().is_none());
    }
}

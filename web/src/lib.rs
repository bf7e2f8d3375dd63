#![doc = include_str!("../README.md")]
//!
//! # What the page calls
//! The page and this program share nothing but memory: files go in by [`room`], pictures and messages
//! come out by an address and a length. No more than that is needed, so there is no generated glue.

use std::cell::RefCell;
use std::error::Error;

use image::DynamicImage;
use isfm::{Isfm, Normalize, Picture, Side};

/// A browser gives a page at most 4 GiB, and a phone's less; above this, pictures go in tiles.
const MEMORY_LIMIT: usize = 512 << 20;

/// A picture as a canvas takes it: four bytes a pixel.
#[derive(Default)]
struct Shown {
    width: u32,
    height: u32,
    rgba: Vec<u8>,
}

#[derive(Default)]
struct Page {
    /// Visible, infrared.
    files: [Vec<u8>; 2],
    /// Visible, infrared, fused.
    shown: [Shown; 3],
}

thread_local! {
    static PAGE: RefCell<Page> = RefCell::default();
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Makes room for a file of the visible (0) or infrared (1) side, and says where: a null address if
/// there is not so much memory, or no such side.
#[unsafe(no_mangle)]
pub extern "C" fn room(side: usize, bytes: usize) -> *mut u8 {
    PAGE.with_borrow_mut(|page| {
        let Some(file) = page.files.get_mut(side) else { return std::ptr::null_mut() };
        *file = Vec::new();
        if file.try_reserve_exact(bytes).is_err() {
            return std::ptr::null_mut();
        }
        file.resize(bytes, 0);
        file.as_mut_ptr()
    })
}

/// Fuses the two files, an infrared one of another size only with `resize`. Whether it worked; if not,
/// [`message`] says why.
#[unsafe(no_mangle)]
pub extern "C" fn fuse(resize: bool) -> bool {
    run(|page| {
        let [visible, infrared] = std::mem::take(&mut page.files);
        let visible = Picture::decode(&visible, "visible", Side::Visible)?.image;
        let infrared = Picture::decode(&infrared, "infrared", Side::Infrared)?.image;
        show(&visible, &infrared, resize)
    })
}

/// What went wrong in the last call, as UTF-8: its address, and with `length` how long it is.
#[unsafe(no_mangle)]
pub extern "C" fn message(length: bool) -> usize {
    MESSAGE.with_borrow(|text| if length { text.len() } else { text.as_ptr().addr() })
}

/// Of the visible (0), infrared (1) and fused (2) picture the width (0), height (1) and the address of
/// its bytes (2): red, green, blue and 255 for each pixel.
#[unsafe(no_mangle)]
pub extern "C" fn picture(which: usize, what: usize) -> usize {
    PAGE.with_borrow(|page| match (page.shown.get(which), what) {
        (Some(shown), 0) => shown.width as usize,
        (Some(shown), 1) => shown.height as usize,
        (Some(shown), 2) => shown.rgba.as_ptr().addr(),
        _ => 0,
    })
}

fn run(work: impl FnOnce(&mut Page) -> Result<[Shown; 3], Box<dyn Error>>) -> bool {
    // In a browser a panic ends the program; the page still reads why.
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|panic| say(format!("a fault of this program: {panic}"))));
    say(String::new());
    let done = PAGE.with_borrow_mut(|page| {
        page.shown = Default::default();
        work(page).map(|shown| page.shown = shown)
    });
    done.map_err(|error| say(whole(&*error))).is_ok()
}

fn say(text: String) {
    MESSAGE.with(|message| message.replace(text));
}

/// An error with its causes.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn show(
    visible: &DynamicImage,
    infrared: &DynamicImage,
    resize: bool,
) -> Result<[Shown; 3], Box<dyn Error>> {
    let isfm = Isfm::builder().memory_limit(MEMORY_LIMIT).resize_infrared(resize).build()?;
    let fused = isfm.fuse(visible, infrared)?;
    let side = |image, side| isfm::to_8_bits(image, side, Normalize::default());
    let shown = [side(visible, Side::Visible)?, side(infrared, Side::Infrared)?, fused];
    Ok(shown.map(|image| Shown {
        width: image.width(),
        height: image.height(),
        rgba: image.into_rgba8().into_raw(),
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};

    use super::*;

    /// As the page does it.
    fn put(side: usize, bytes: &[u8]) {
        assert!(!room(side, bytes.len()).is_null());
        PAGE.with_borrow_mut(|page| page.files[side].copy_from_slice(bytes));
    }

    fn png(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn said() -> String {
        assert_eq!(message(true), MESSAGE.with_borrow(String::len));
        MESSAGE.with_borrow(String::clone)
    }

    #[test]
    fn the_pictures_are_the_facades() {
        let files = [
            include_bytes!("../example/visible.jpg").as_slice(),
            include_bytes!("../example/infrared.jpg"),
        ];
        put(0, files[0]);
        put(1, files[1]);
        assert!(fuse(false), "{}", said());
        let [visible, infrared] = files.map(|file| image::load_from_memory(file).unwrap());
        let fused = Isfm::embedded().unwrap().fuse(&visible, &infrared).unwrap();
        PAGE.with_borrow(|page| {
            for (shown, image) in page.shown.iter().zip([visible, infrared, fused]) {
                assert_eq!((shown.width, shown.height), (640, 480));
                assert!(shown.rgba == image.to_rgba8().into_raw());
            }
        });
        assert_eq!([picture(2, 0), picture(2, 1), picture(3, 0)], [640, 480, 0]);
    }

    #[test]
    fn files_are_fused_and_what_is_wrong_with_them_is_said() {
        let visible = png(&RgbImage::from_fn(30, 20, |x, y| Rgb([x as u8, y as u8, 90])).into());
        let infrared = png(&GrayImage::from_fn(15, 10, |x, _| Luma([9 * x as u8])).into());
        for (files, resize, want) in [
            ([&visible, &visible], false, ""),
            ([&visible, &infrared], true, ""),
            ([&visible, &infrared], false, "30x20"),
            ([&b"no picture".to_vec(), &infrared], false, "visible: "),
            ([&visible, &infrared[..40].to_vec()], false, "infrared: "),
            ([&Vec::new(), &visible], false, "visible: "),
        ] {
            put(0, files[0]);
            put(1, files[1]);
            assert_eq!(fuse(resize), want.is_empty(), "{}", said());
            assert!(said().contains(want), "{} has no {want}", said());
            assert_eq!(picture(2, 0), if want.is_empty() { 30 } else { 0 });
        }
        assert!(room(2, 1).is_null() && room(0, isize::MAX as usize).is_null());
    }
}

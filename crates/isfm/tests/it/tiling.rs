//! Tiles against the whole, and the memory limit.

use crate::common::{self, builder, isfm, plane, values, whole};
use isfm::{Borders, Builder, Error, Isfm, Tiling};

fn rms(a: &[f32], b: &[f32]) -> f32 {
    (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / a.len() as f32).sqrt()
}

/// With random weights the network leans on its far context more than a trained one, so the
/// tolerance says no more than "one picture"; that there are no steps is the other half. The
/// numbers for trained weights stand in the README.
#[test]
fn tiled_is_close_to_whole_and_has_no_seams() {
    let (height, width) = (206, 250);
    let (visible, infrared) = (plane(height, width, 1), plane(height, width, 2));
    let want = values(&whole().fuse_luma(&visible, &infrared).unwrap());
    let spread = {
        let mean = want.iter().sum::<f32>() / want.len() as f32;
        rms(&want, &vec![mean; want.len()])
    };
    assert!(spread > 0.1, "{spread}");
    for edge in [96, 128, 200] {
        let tiled = builder().tiling(Tiling::Edge(edge)).build().unwrap();
        let got = values(&tiled.fuse_luma(&visible, &infrared).unwrap());
        assert_eq!(got.len(), want.len());
        assert!(rms(&got, &want) < 0.1 * spread, "{edge}: {} {spread}", rms(&got, &want));
        // A seam would be a step in the difference from one pixel to the next.
        let difference: Vec<f32> = got.iter().zip(&want).map(|(a, b)| a - b).collect();
        let across = difference.chunks(width).flat_map(|row| row.windows(2));
        let steepest = across.map(|w| (w[1] - w[0]).abs()).fold(0., f32::max);
        let down = difference.windows(width + 1).map(|w| (w[width] - w[0]).abs());
        let steepest = down.fold(steepest, f32::max);
        assert!(steepest < 8. / 255., "{edge}: a step of {steepest}");
    }
}

#[test]
fn a_tile_that_holds_the_image_is_the_whole() {
    let (visible, infrared) = (plane(61, 47, 1), plane(61, 47, 2));
    let want = values(&whole().fuse_luma(&visible, &infrared).unwrap());
    for edge in [62, 64, 5000, usize::MAX] {
        let tiled = builder().tiling(Tiling::Edge(edge)).build().unwrap();
        assert_eq!(values(&tiled.fuse_luma(&visible, &infrared).unwrap()), want);
    }
}

#[test]
fn flat_images_have_no_grid() {
    // Where every tile sees the same, all must agree but for the borders, whose zero padding
    // reaches a few pixels in; the middle of a flat image is flat however it is cut.
    let flat = |v: f32| common::tensor(vec![v; 160 * 200], &[160, 200]);
    let tiled = builder().tiling(Tiling::Edge(96)).build().unwrap();
    let got = values(&tiled.fuse_luma(&flat(0.6), &flat(0.3)).unwrap());
    let want = values(&whole().fuse_luma(&flat(0.6), &flat(0.3)).unwrap());
    let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0., f32::max);
    assert!(off < 4. / 255., "{off}");
}

#[test]
fn the_memory_limit_makes_tiles_or_an_error() {
    let fuser = isfm();
    let needed = fuser.memory_needed(300, 260);
    assert!(needed < Builder::FALLBACK_MEMORY_LIMIT);
    // The network sees eight pixels more on every side, and even sizes.
    assert_eq!(needed / (316 * 276), fuser.memory_needed(1, 2) / (18 * 18));
    assert_eq!(needed / (316 * 276) * (616 * 536), fuser.memory_needed(599, 520));
    let bare = builder().borders(Borders::Released).build().unwrap();
    assert_eq!(needed / (316 * 276) * (61 * 47), bare.memory_needed(61, 47));
    let bare = |b: Builder| b.borders(Borders::Released).build().unwrap();
    let odd = |fuser: Isfm| values(&fuser.fuse_luma(&plane(47, 61, 1), &plane(47, 61, 2)).unwrap());
    let just = builder().memory_limit(needed / (316 * 276) * (61 * 47));
    assert_eq!(odd(bare(just)), odd(bare(builder().tiling(Tiling::Whole))));
    let (visible, infrared) = (plane(260, 300, 1), plane(260, 300, 2));
    let run = |limit| builder().memory_limit(limit).build().unwrap().fuse_luma(&visible, &infrared);
    let want = values(&whole().fuse_luma(&visible, &infrared).unwrap());
    assert_eq!(values(&run(needed).unwrap()), want);
    let tiled = values(&run(needed * 2 / 3).unwrap());
    assert_ne!(tiled, want);
    assert!(rms(&tiled, &want) < 0.05);
    let error = run(1000).unwrap_err();
    let Error::MemoryLimit { limit: 1000, needed } = error else { panic!("{error}") };
    assert!(run(needed).is_ok());
    assert!(matches!(run(needed / 2), Err(Error::MemoryLimit { .. })));
}

use isfm_align::{Alignment, Error, Image, Model, Options, Refusal};
use isfm_testing::{Numbers, needs_shared, same_on_any_threads};

use crate::scenes::{Grey, corner_error, map, scene};

const SIZE: (usize, usize) = (320, 240);

fn estimate(pairs: &[(Grey, Grey)], model: Model) -> isfm_align::Result<Alignment> {
    let images: Vec<_> = pairs.iter().map(|(v, i)| (v.image(), i.image())).collect();
    Alignment::estimate(&images, model, &Options::default())
}

/// Half a pixel is what the noise of one painted pair leaves; several halve it.
#[test]
fn a_warp_of_a_painted_scene_is_found_whichever_side_is_brighter() {
    for (seed, scale, degrees) in [(1, 1.1, 4.), (2, 0.85, -5.), (3, 1.2, 2.)] {
        let (visible, infrared) = scene(seed, SIZE);
        let truth = map(SIZE, (170., 112.), scale, degrees, [0.01, -0.015]);
        let warped = infrared.warped(&truth, SIZE);
        let found = estimate(&[(visible, warped)], Model::Homography).unwrap();
        let error = corner_error(&found.homography(), &truth, SIZE);
        assert!(error < 1., "scene {seed}: {error}");
        let confidence = found.confidence().unwrap();
        assert!(confidence.significance.unwrap() > Alignment::LEAST_SIGNIFICANCE);
        assert!(confidence.corner_error < 5., "{confidence:?}");
    }
}

#[test]
fn several_frames_give_one_estimate_and_ones_without_structure_do_no_harm() {
    let truth = map(SIZE, (150., 125.), 0.95, -3., [-0.01, 0.01]);
    let mut pairs: Vec<(Grey, Grey)> = (10..14)
        .map(|seed| {
            let (visible, infrared) = scene(seed, SIZE);
            (visible, infrared.warped(&truth, SIZE))
        })
        .collect();
    let alone = estimate(&pairs, Model::Homography).unwrap();
    assert!(corner_error(&alone.homography(), &truth, SIZE) < 0.5);
    let flat = Grey { width: SIZE.0, height: SIZE.1, data: vec![80; SIZE.0 * SIZE.1] };
    pairs.push((flat.clone(), flat));
    // And a scene whose infrared picture is another's.
    pairs.push((scene(20, SIZE).0, scene(21, SIZE).1));
    let more = estimate(&pairs, Model::Homography).unwrap();
    assert!(corner_error(&more.homography(), &truth, SIZE) < 0.6);
    assert_eq!(more.confidence().unwrap().samples, 6);
}

#[test]
fn a_thermal_picture_inside_a_larger_visible_one_is_found() {
    let size = (640, 480);
    let (visible, infrared) = scene(5, size);
    let own = (160, 120);
    // A third of the width, with fewer pixels.
    let truth = map(own, (300., 260.), 1.4, 2., [0., 0.]);
    let small = infrared.warped(&truth, own);
    let found = estimate(&[(visible, small)], Model::Homography).unwrap();
    let error = corner_error(&found.homography(), &truth, own);
    // 3 % of the diagonal that it covers, of pictures as coarse and noisy as these.
    assert!(error < 8.4, "{error}");
}

#[test]
fn each_model_keeps_to_its_own() {
    let (visible, infrared) = scene(7, SIZE);
    let moved = infrared.warped(&map(SIZE, (166., 114.), 1., 0., [0.; 2]), SIZE);
    for model in Model::ALL {
        let found = estimate(&[(visible.clone(), moved.clone())], model).unwrap();
        let m = found.homography().matrix();
        assert_eq!(found.model(), Some(model));
        if model != Model::Homography {
            assert!(m[6].abs() < 1e-12 && m[7].abs() < 1e-12, "{m:?}");
        }
        if model == Model::Similarity {
            assert!((m[0] - m[4]).abs() < 1e-9 && (m[1] + m[3]).abs() < 1e-9, "{m:?}");
        }
        if model == Model::Shift {
            assert!((m[0] - 1.).abs() < 1e-9 && m[1].abs() < 1e-9, "{m:?}");
        }
        assert!((m[2] - 6.5).abs() < 1.5 && (m[5] + 5.5).abs() < 1.5, "{m:?}");
    }
}

#[test]
fn what_cannot_be_trusted_is_refused_and_the_error_says_what_to_do() {
    let (visible, infrared) = scene(30, SIZE);
    let count = SIZE.0 * SIZE.1;
    let flat = |value: u8| Grey { width: SIZE.0, height: SIZE.1, data: vec![value; count] };
    let noise = |seed: u64| {
        let mut numbers = Numbers(seed);
        let data = (0..count).map(|_| (256. * numbers.unit()) as u8).collect();
        Grey { width: SIZE.0, height: SIZE.1, data }
    };
    // Brightness that falls off to one side, and the sensor's grain.
    let wall = |seed: u64| {
        let mut numbers = Numbers(seed);
        let data = (0..count)
            .map(|at| (90. + 0.2 * (at % SIZE.0) as f64 + 3. * numbers.unit()) as u8)
            .collect();
        Grey { width: SIZE.0, height: SIZE.1, data }
    };
    let dot = |at: usize| {
        let mut one = flat(40);
        one.data[at] = 255;
        one
    };
    for (name, pair) in [
        ("different scenes", (visible.clone(), scene(31, SIZE).1)),
        ("other different scenes", (scene(32, SIZE).0, infrared.clone())),
        ("both black", (flat(0), flat(0))),
        ("an infrared picture that is black", (visible.clone(), flat(0))),
        ("a visible picture that is black", (flat(0), infrared.clone())),
        ("noise", (noise(1), noise(2))),
        ("noise for the infrared picture", (visible.clone(), noise(3))),
        ("a wall", (wall(4), wall(5))),
        ("a wall for the visible picture", (wall(6), infrared.clone())),
        ("a hot pixel", (flat(90), dot(1000))),
    ] {
        match estimate(&[pair], Model::Homography) {
            Err(error @ Error::Refused { .. }) => {
                let told = error.to_string();
                assert!(told.contains("more frames") && told.contains("four points"), "{told}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn an_error_beyond_the_accepted_one_is_refused() {
    let (visible, infrared) = scene(40, SIZE);
    let pairs = [(visible.image(), infrared.image())];
    let options = Options { largest_error: 1e-6, ..Options::default() };
    let Err(Error::Refused { reason: Refusal::Uncertain { error, largest }, pairs: 1 }) =
        Alignment::estimate(&pairs, Model::Homography, &options)
    else {
        panic!("not refused")
    };
    assert!(error > largest && largest > 0.);
}

#[test]
fn a_start_is_refined() {
    let (visible, infrared) = scene(50, SIZE);
    let truth = map(SIZE, (163., 121.), 1.05, 1., [0.; 2]);
    let warped = infrared.warped(&truth, SIZE);
    let start = map(SIZE, (160., 119.), 1.03, 0.5, [0.; 2]);
    let options = Options { start: Some(start), ..Options::default() };
    let found =
        Alignment::estimate(&[(visible.image(), warped.image())], Model::Homography, &options);
    let error = corner_error(&found.unwrap().homography(), &truth, SIZE);
    assert!(error < 1., "{error}");
}

#[test]
fn pictures_of_any_size_and_value_are_answered() {
    let one = [7_u8];
    let tiny = Image::new(&one, 1, 1).unwrap();
    let (visible, infrared) = scene(60, (97, 61));
    for (v, i) in [(tiny, tiny), (visible.image(), tiny), (tiny, infrared.image())] {
        let found = Alignment::estimate(&[(v, i)], Model::Homography, &Options::default());
        assert!(matches!(found, Err(Error::Refused { .. })), "{found:?}");
    }
    // Lines.
    let line = vec![9_u8; 300];
    let (row, column) = (Image::new(&line, 300, 1).unwrap(), Image::new(&line, 1, 300).unwrap());
    for pair in [(row, row), (column, row), (visible.image(), column)] {
        assert!(Alignment::estimate(&[pair], Model::Homography, &Options::default()).is_err());
    }
    // Values that are none, or huge.
    let odd = |value: f32| -> Vec<f32> {
        let mut data: Vec<f32> = visible.data.iter().map(|&v| f32::from(v)).collect();
        data.iter_mut().step_by(3).for_each(|v| *v = value);
        data
    };
    for value in [f32::NAN, f32::INFINITY, f32::MAX, f32::MIN, 1e-40] {
        let data = odd(value);
        let image = Image::new(&data, 97, 61).unwrap();
        for options in
            [Options::default(), Options { largest_error: f64::INFINITY, ..Options::default() }]
        {
            // Found or refused, but never anything that is not finite.
            if let Ok(found) =
                Alignment::estimate(&[(image, infrared.image())], Model::Homography, &options)
            {
                assert!(found.homography().matrix().iter().all(|v| v.is_finite()));
            }
        }
    }
}

#[test]
fn deep_pictures_and_those_with_unknown_borders_are_found_as_well() {
    let (visible, infrared) = scene(70, SIZE);
    let truth = map(SIZE, (155., 123.), 1., 2., [0.; 2]);
    let warped = infrared.warped(&truth, SIZE);
    let counts: Vec<u16> =
        warped.data.iter().map(|&v| if v == 0 { 0 } else { 7000 + 3 * u16::from(v) }).collect();
    let colour: Vec<f32> = visible.data.iter().flat_map(|&v| [f32::from(v) / 255.; 3]).collect();
    let pair = (
        Image::with_channels(&colour, SIZE.0, SIZE.1, 3).unwrap(),
        Image::new(&counts, SIZE.0, SIZE.1).unwrap(),
    );
    let found = Alignment::estimate(&[pair], Model::Homography, &Options::default()).unwrap();
    assert!(corner_error(&found.homography(), &truth, SIZE) < 1.);
}

#[test]
fn pictures_of_other_sizes_and_bad_options_are_refused() {
    let (v, i) = scene(80, (64, 48));
    let (other, _) = scene(80, (48, 64));
    let none: [(Image<'_, u8>, Image<'_, u8>); 0] = [];
    let options = Options::default();
    let run = |pairs: &[(Image<'_, u8>, Image<'_, u8>)], options: &Options| {
        Alignment::estimate(pairs, Model::Affine, options)
    };
    assert!(matches!(run(&none, &options), Err(Error::NoPairs)));
    let pairs = [(v.image(), i.image()), (other.image(), i.image())];
    isfm_testing::refused(run(&pairs, &options), &["pair 1", "48x64", "64x48"]);
    for (options, word) in [
        (Options { coverage: [0.5, 0.2], ..options.clone() }, "coverage"),
        (Options { coverage: [f64::NAN, 1.], ..options.clone() }, "coverage"),
        (Options { rotation: 90., ..options.clone() }, "rotation"),
        (Options { largest_error: 0., ..options.clone() }, "largest error"),
    ] {
        isfm_testing::refused(run(&pairs[..1], &options), &[word]);
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let (visible, infrared) = scene(90, (160, 120));
    same_on_any_threads("an estimate", || {
        let options = Options { largest_error: f64::INFINITY, ..Options::default() };
        Alignment::estimate(&[(visible.image(), infrared.image())], Model::Homography, &options)
            .unwrap()
    });
}

needs_shared! {
    /// Real pairs: each is found near where the data set says it lies. 8 pixels is more than the data set's own
    /// misalignment (see the README) and far less than any wrong place.
    fn road_scenes_are_found_and_exchanged_ones_are_refused() {
        let folder = isfm_testing::shared().join("data/roadscene/test");
        let mut all: Vec<std::path::PathBuf> = std::fs::read_dir(folder.join("vi"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        all.sort();
        let read = |path: &std::path::Path| {
            let image = image::open(path).unwrap().to_luma8();
            let (width, height) = (image.width() as usize, image.height() as usize);
            Grey { width, height, data: image.into_raw() }
        };
        let pairs: Vec<(Grey, Grey)> = all
            .iter()
            .step_by(all.len() / 3)
            .take(3)
            .map(|path| (read(path), read(&folder.join("ir").join(path.file_name().unwrap()))))
            .collect();
        let mut found_some = 0;
        for (visible, infrared) in &pairs {
            let size = (infrared.width, infrared.height);
            let truth = map(size, (size.0 as f64 / 2. + 9., size.1 as f64 / 2. - 6.), 1.08, 3., [0.; 2]);
            let warped = infrared.warped(&truth, size);
            match estimate(&[(visible.clone(), warped)], Model::Homography) {
                Ok(found) => {
                    found_some += 1;
                    let error = corner_error(&found.homography(), &truth, size);
                    assert!(error < 8., "{error}");
                }
                Err(error) => assert!(matches!(error, Error::Refused { .. }), "{error}"),
            }
        }
        assert!(found_some >= 2, "{found_some} of {}", pairs.len());
        for k in 0..pairs.len() {
            let other = &pairs[(k + 1) % pairs.len()].1;
            let mixed = estimate(&[(pairs[k].0.clone(), other.clone())], Model::Homography);
            assert!(matches!(mixed, Err(Error::Refused { .. })), "{mixed:?}");
        }
    }
}

use isfm_align::{Alignment, Homography, Model, Sizes};
use isfm_testing::{chain, refused};
use proptest::prelude::*;

const SIZES: Sizes = Sizes { visible: (640, 480), infrared: (320, 256) };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read_to_the_bit(numbers in prop::collection::vec(-1e3_f64..1e3, 9)) {
        let Ok(map) = Homography::new(numbers.try_into().unwrap()) else { return Ok(()) };
        for one in [Alignment::from(map), Alignment::from(map).for_sizes(SIZES).unwrap()] {
            prop_assert_eq!(Alignment::from_json(&one.to_json()).unwrap(), one);
        }
    }

    #[test]
    fn any_text_is_an_alignment_or_an_error(text in "[\\[\\]{}\",:a-z0-9. e+-]{0,80}") {
        _ = Alignment::from_json(&text);
    }
}

#[test]
fn all_that_is_known_goes_through_a_file() {
    let points = [[0., 0.], [300., 4.], [7., 250.], [290., 240.], [150., 120.]]
        .map(|p: [f64; 2]| (p, [2. * p[0] + 3. + (p[0] * 7.).sin(), 2. * p[1] - 5.]));
    let one = Alignment::from_points(&points, SIZES).unwrap();
    assert_eq!(one.model(), Some(Model::Homography));
    assert!(one.confidence().is_some());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rig.json");
    one.write(&path).unwrap();
    assert_eq!(Alignment::read(&path).unwrap(), one);
    // What was there is replaced, and nothing is left beside it.
    one.invert().unwrap().write(&path).unwrap();
    let (read, back) = (Alignment::read(&path).unwrap(), one.invert().unwrap());
    assert_eq!(read.homography().matrix(), back.homography().matrix());
    assert_eq!((read.sizes(), read.confidence()), (back.sizes(), back.confidence()));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(one.write(folder.path().join("no/such/rig.json")).is_err());
}

#[test]
fn a_bare_matrix_is_read_and_what_is_none_is_named() {
    let text = "[1, 0, 5, 0, 1, -3, 0, 0, 1]";
    let bare = Alignment::from_json(&format!("\u{feff}{text}")).unwrap();
    assert_eq!(bare.homography().apply([2., 2.]), [7., -1.]);
    assert_eq!((bare.sizes(), bare.model(), bare.confidence()), (None, None, None));
    let object = |more: &str| Alignment::from_json(&format!("{{\"matrix\": {text}{more}}}"));
    assert_eq!(object(", \"camera\": \"a\"").unwrap(), bare);
    for (more, word) in [
        (", \"model\": \"cubic\"", "cubic"),
        (", \"visible\": [640]", "length"),
        (", \"visible\": [0, 4], \"infrared\": [3, 4]", "0x4"),
        (", \"visible\": [70000, 4], \"infrared\": [3, 4]", "70000x4"),
        (", \"confidence\": {\"corner_error\": -1, \"samples\": 1}", "-1"),
    ] {
        refused(object(more), &[word]);
    }
    for (text, word) in [
        ("", "no JSON"),
        ("3", "nine numbers"),
        ("[1, 2]", "2 numbers"),
        ("[1,0,0,0,1,0,0,0,1,5]", "10 numbers"),
        ("[1,0,0,0,1,0,0,\"x\",1]", "8 numbers"),
        ("[1,2,3,2,4,6,0,0,1]", "inverted"),
        ("[0,0,0,0,0,0,0,0,0]", "not all 0"),
    ] {
        refused(Alignment::from_json(text), &[word]);
    }
    refused(Homography::new([f64::NAN; 9]), &["finite"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.json");
    std::fs::write(&path, "[1, 2]").unwrap();
    let told = chain(&Alignment::read(&path).unwrap_err());
    assert!(told.contains("h.json") && told.contains("2 numbers"), "{told}");
    let told = chain(&Alignment::read(folder.path().join("gone")).unwrap_err());
    assert!(told.contains("gone"), "{told}");
}

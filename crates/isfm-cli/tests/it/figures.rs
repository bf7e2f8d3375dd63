//! Figures of one pair with enlarged regions.

use std::path::Path;

use clap::Parser;
use image::{Rgb, RgbImage};
use isfm_cli::evaluate::Args;

use crate::common::{evaluate, scene, set};

const PAIR: [&str; 2] = ["--visible=@/vi", "--infrared=@/ir"];
const RED: Rgb<u8> = Rgb([230, 40, 30]);
const GREEN: Rgb<u8> = Rgb([0, 200, 120]);

fn draw(folder: &Path, args: &[&str]) -> anyhow::Result<()> {
    evaluate(folder, &[&PAIR[..], &["--quiet", "--metrics=EN"], args].concat()).map(|_| ())
}

fn png(path: &Path) -> RgbImage {
    image::open(path).unwrap().to_rgb8()
}

/// Where a picture has a colour: its edges.
fn bounds(image: &RgbImage, colour: Rgb<u8>, from: (u32, u32), to: (u32, u32)) -> [u32; 4] {
    let found = image.enumerate_pixels().filter(|(x, y, p)| {
        **p == colour && (from.0..to.0).contains(x) && (from.1..to.1).contains(y)
    });
    found.fold([u32::MAX, u32::MAX, 0, 0], |[l, t, r, b], (x, y, _)| {
        [l.min(x), t.min(y), r.max(x), b.max(y)]
    })
}

#[test]
fn pictures_regions_and_captions_are_where_they_belong() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 2, (300, 200));
    let args = [
        "--fused=Sharp=@/sharp",
        "--baseline=average,max",
        "--figure=b",
        "--box=40,30,60,40",
        "--box=200,100,50,50",
        "--figure-file=@/deep/f.png",
        "--figure-file=@/f.svg",
    ];
    draw(folder.path(), &args).unwrap();
    let figure = png(&folder.path().join("deep/f.png"));
    // Five panels of 300 pixels beside each other, 8 between; half of 300 less 4, at least as high as
    // wide, is the second region's.
    let (step, zoom) = (308, 148);
    assert_eq!(figure.dimensions(), (8 + 5 * step, 8 + 200 + 4 + zoom + 28 + 8));
    let [visible, _, sharp, _] = scene(1, 300, 200).map(|image| image.to_rgb8());
    for (column, image) in [(0, &visible), (2, &sharp)] {
        let left = 8 + column * step;
        // Away from marks the picture is what it was.
        for (x, y) in [(0, 0), (299, 199), (10, 150), (150, 20)] {
            assert_eq!(
                figure.get_pixel(left + x, 8 + y),
                image.get_pixel(x, y),
                "{column} {x} {y}"
            );
        }
        // The marks are around the regions, two pixels wide.
        let of = |colour| bounds(&figure, colour, (left, 8), (left + 300, 208));
        assert_eq!(of(RED), [left + 38, 8 + 28, left + 101, 8 + 71], "{column}");
        assert_eq!(of(GREEN), [left + 198, 8 + 98, left + 251, 8 + 151], "{column}");
        assert_eq!(figure.get_pixel(left + 40, 8 + 30), image.get_pixel(40, 30));
        // The enlarged ones are side by side, with the region's aspect.
        let below = |colour| bounds(&figure, colour, (left, 209), (left + 300, 365));
        assert_eq!(below(RED), [left, 212, left + 147, 212 + 98], "{column}");
        assert_eq!(below(GREEN), [left + 152, 212, left + 299, 212 + 147], "{column}");
        // What is in the middle of the region is in the middle of the enlarged one.
        let (got, want) = (figure.get_pixel(left + 226, 212 + 74), image.get_pixel(225, 125));
        let far = got.0.iter().zip(want.0).map(|(a, b)| a.abs_diff(b)).max().unwrap();
        assert!(far < 90, "{got:?} {want:?}");
        // There is a caption, in black on white.
        let caption = bounds(&figure, Rgb([0; 3]), (left, 362), (left + 300, 390));
        assert!(
            caption[0] > left + 100 && caption[2] < left + 200 && caption[3] < 388,
            "{caption:?}"
        );
    }
    // Between panels there is nothing.
    assert!((0..figure.height()).all(|y| *figure.get_pixel(step + 2, y) == Rgb([255; 3])));

    let svg = std::fs::read_to_string(folder.path().join("f.svg")).unwrap();
    let svg = roxmltree::Document::parse(&svg).unwrap();
    let root = svg.root_element();
    assert_eq!(root.attribute("width"), Some("1548"));
    let named = |name: &'static str| {
        root.descendants().filter(move |n| n.has_tag_name(("http://www.w3.org/2000/svg", name)))
    };
    assert_eq!(named("image").count(), 5 * 3);
    let captions: Vec<_> = named("text").map(|node| node.text().unwrap()).collect();
    assert_eq!(captions, ["Visible", "Infrared", "Sharp", "Average", "Max"]);
    assert_eq!(named("rect").count(), 1 + 5 * 4);
    // Its pictures are whole.
    let first = named("image").next().unwrap();
    let uri = first.attribute(("http://www.w3.org/1999/xlink", "href")).unwrap();
    let base64 = uri.strip_prefix("data:image/png;base64,").unwrap();
    let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, base64).unwrap();
    assert!(image::load_from_memory(&bytes).unwrap().to_rgb8() == visible);
}

/// Names of any kind, sizes of any kind, results that are not there.
#[test]
fn whatever_there_is_can_be_drawn() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 1, (20, 16));
    std::fs::remove_file(folder.path().join("flat/a.bmp")).unwrap();
    let long = format!("--fused={}=@/sharp", "long name & <b>\"x\" ".repeat(8));
    let args = [
        "--fused=gone=@/sharp",
        "--fused=名前 é=@/sharp",
        &long,
        "--baseline=average,max,laplacian,laplacian:1,laplacian:3,laplacian:4",
        "--figure=a",
        "--box=0,0,1,16",
        "--box=0,0,20,16",
        "--box=19,15,1,1",
        "--box=0,15,20,1",
        "--figure-file=@/f.png",
        "--figure-file=@/f.svg",
    ];
    draw(folder.path(), &args).unwrap();
    // Eleven panels are two rows of six.
    let figure = png(&folder.path().join("f.png"));
    assert_eq!(figure.width(), 8 + 6 * 248);
    let svg = std::fs::read_to_string(folder.path().join("f.svg")).unwrap();
    let svg = roxmltree::Document::parse(&svg).unwrap();
    assert!(svg.descendants().any(|node| node.text() == Some("名前 é")));
    assert!(svg.descendants().any(|node| node.text().is_some_and(|t| t.contains("& <b>\"x\""))));

    // Wide pictures have letters and lines of their size; no region is needed.
    let wide = tempfile::tempdir().unwrap();
    set(wide.path(), 1, (1000, 40));
    let args = ["--baseline=max", "--figure=a", "--figure-file=@/f.png"];
    draw(wide.path(), &args).unwrap();
    assert_eq!(png(&wide.path().join("f.png")).dimensions(), (3 * 1016 + 16, 40 + 56 + 32));

    // A hole is a hole.
    let holes = tempfile::tempdir().unwrap();
    set(holes.path(), 2, (30, 20));
    std::fs::remove_file(holes.path().join("flat/a.bmp")).unwrap();
    let args = ["--fused=Flat=@/flat", "--figure=a", "--box=1,2,3,4", "--figure-file=@/f.svg"];
    draw(holes.path(), &args).unwrap();
    let svg = std::fs::read_to_string(holes.path().join("f.svg")).unwrap();
    assert!(svg.contains("no result") && svg.contains("Flat"));
}

#[test]
fn clear_errors() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 2, (60, 40));
    let more = ["--baseline=max", "--figure-file=@/f.png"];
    let cases: [(&[&str], &[&str]); 12] = [
        (&["--figure=z", "--box=0,0,1,1"], &["\"z\"", "as a"]),
        (&["--figure=a", "--box=50,0,11,1"], &["50,0,11,1", "60x40"]),
        (&["--figure=a", "--box=0,30,1,11"], &["0,30,1,11", "60x40"]),
        (&["--figure=a", "--box=4294967295,0,2,1"], &["60x40"]),
        (&["--figure=a", "--box=0,0,0,1"], &["at least one pixel"]),
        (&["--figure=a", "--box=-1,0,2,1"], &["X,Y,W,H", "-1,0,2,1"]),
        (&["--figure=a", "--box=1,2,3"], &["X,Y,W,H"]),
        (&["--figure=a", "--figure-file=@/f.pdf"], &[".png or .svg"]),
        (&["--figure=a", "--figure-file=@/f.png"], &["twice"]),
        (&["--figure=a", "--json=@/f.png"], &["twice"]),
        (&[], &["--figure"]),
        (
            &[
                "--figure=a",
                "--box=0,0,1,1",
                "--box=0,0,1,1",
                "--box=0,0,1,1",
                "--box=0,0,1,1",
                "--box=0,0,1,1",
            ],
            &["four times"],
        ),
    ];
    for (args, parts) in cases {
        let told = crate::fault(draw(folder.path(), &[&more, args].concat()));
        assert!(parts.iter().all(|part| told.contains(part)), "{args:?}: {told}");
        assert!(!folder.path().join("f.png").exists(), "{args:?}");
    }
    let alone = Args::try_parse_from(["evaluate", "--baseline=max", "--figure=a"]);
    assert!(alone.unwrap_err().to_string().contains("--figure-file"));
    // A pair that is there but cannot be read.
    std::fs::write(folder.path().join("ir/b.png"), "no picture").unwrap();
    let told = crate::fault(draw(folder.path(), &[&more[..], &["--figure=b"]].concat()));
    assert!(told.contains("b.png"), "{told}");
}

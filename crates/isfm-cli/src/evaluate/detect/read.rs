//! Boxes from files: COCO's JSON, and YOLO's text, a file for each image.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use isfm_files::pairs::Folder;
use isfm_metrics::detection::{BoundingBox, Detection, GroundTruth};
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, Visitor};

use crate::evaluate::tasks::first_few;
use crate::text_of;

/// What a set of images holds.
#[derive(Debug, Default)]
pub struct Truth {
    /// The classes: what results call them, and their names, in the order of YOLO's numbers.
    pub classes: Vec<(Id, String)>,
    /// The objects; images and classes are places in the lists here.
    pub objects: Vec<GroundTruth>,
    images: Images,
    class_places: HashMap<Id, usize>,
    /// The classes' names are their numbers: no file names them, and there may be others.
    nameless: bool,
}

/// An image's or a class's number, or its name where results have that.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id {
    /// A whole number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Number(number) => number.fmt(f),
            Id::Text(text) => text.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or a name")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Id, E> {
                i64::try_from(value).map(Id::Number).map_err(E::custom)
            }

            fn visit_i64<E>(self, value: i64) -> Result<Id, E> {
                Ok(Id::Number(value))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Id, E> {
                // Below 2^53 every whole number is one `f64`.
                match value.fract() == 0. && value.abs() < 9e15 {
                    true => Ok(Id::Number(value as i64)),
                    false => Err(E::invalid_value(de::Unexpected::Float(value), &self)),
                }
            }

            fn visit_str<E>(self, value: &str) -> Result<Id, E> {
                Ok(Id::Text(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Which images there are.
#[derive(Debug, Default)]
struct Images {
    count: usize,
    /// Width and height in pixels, of those that are known.
    sizes: Vec<Option<(f64, f64)>>,
    by_id: HashMap<Id, usize>,
    /// None where several have the stem.
    by_stem: HashMap<String, Option<usize>>,
    /// Boxes are parts of an image, for its size is not known.
    in_parts: bool,
}

impl Images {
    fn add(&mut self, id: Option<Id>, stem: Option<String>, size: Option<(f64, f64)>) -> usize {
        let place = self.count;
        self.count += 1;
        self.sizes.push(size);
        if let Some(id) = id {
            self.by_id.insert(id, place);
        }
        if let Some(stem) = stem {
            self.by_stem.entry(stem).and_modify(|other| *other = None).or_insert(Some(place));
        }
        place
    }

    fn of_stem(&self, stem: &str) -> Option<usize> {
        let number = || stem.parse().ok().and_then(|n| self.by_id.get(&Id::Number(n)).copied());
        match self.by_stem.get(stem) {
            Some(place) => *place,
            None => number(),
        }
    }

    /// Results of Ultralytics have the stem, as a number if it is one.
    fn of_id(&self, id: &Id) -> Option<usize> {
        self.by_id.get(id).copied().or_else(|| match id {
            Id::Text(stem) => self.of_stem(stem),
            Id::Number(_) => None,
        })
    }
}

/// What a method found, and what of it cannot be scored.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order of the file, or of the files' names.
    pub detections: Vec<Detection>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// Counts what is left out, and names the first few.
#[derive(Default)]
struct LeftOut {
    unknown_images: BTreeMap<Id, usize>,
    unknown_classes: BTreeMap<Id, usize>,
    faults: usize,
    first_fault: String,
}

impl LeftOut {
    fn fault(&mut self, why: impl fmt::Display) {
        if self.faults == 0 {
            self.first_fault = why.to_string();
        }
        self.faults += 1;
    }

    fn told(&self) -> Vec<String> {
        let unknown = |what: &str, of: &BTreeMap<Id, usize>| {
            let count: usize = of.values().sum();
            let (plural, number) = (if of.len() == 1 { "" } else { "s" }, of.len());
            let which = first_few(of.keys());
            (number > 0).then(|| {
                format!(
                    "{count} detections of {number} {what}{plural} that the ground truth lacks are left \
                     out: {which}"
                )
            })
        };
        let faults = (self.faults > 0).then(|| match self.faults {
            1 => format!("1 detection is left out: {}", self.first_fault),
            count => format!("{count} detections are left out, the first: {}", self.first_fault),
        });
        let [images, classes] = [("image", &self.unknown_images), ("class", &self.unknown_classes)]
            .map(|(what, of)| unknown(what, of));
        let classes = classes.map(|told| told.replace("classs", "classes"));
        [faults, images, classes].into_iter().flatten().collect()
    }
}

#[derive(serde::Deserialize)]
struct CocoTruth {
    images: Vec<CocoImage>,
    annotations: Vec<CocoObject>,
    categories: Vec<CocoClass>,
}

#[derive(serde::Deserialize)]
struct CocoImage {
    id: Id,
    #[serde(default)]
    file_name: Option<String>,
    #[serde(default)]
    width: Option<f64>,
    #[serde(default)]
    height: Option<f64>,
}

#[derive(serde::Deserialize)]
struct CocoClass {
    id: Id,
    #[serde(default)]
    name: Option<String>,
}

#[derive(serde::Deserialize)]
struct CocoObject {
    image_id: Id,
    category_id: Id,
    bbox: [f64; 4],
    #[serde(default)]
    iscrowd: Option<Flag>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Flag {
    Number(f64),
    Truth(bool),
}

#[derive(serde::Deserialize)]
struct CocoResult {
    image_id: Id,
    category_id: Id,
    bbox: [f64; 4],
    score: f64,
}

const TRUTH_FORM: &str = "it is no COCO ground truth, which is {\"images\": [{\"id\", …}, …], \
     \"annotations\": [{\"image_id\", \"category_id\", \"bbox\": [x, y, width, height], …}, …], \
     \"categories\": [{\"id\", \"name\"}, …]}";

const RESULT_FORM: &str = "it is no list of COCO results, which is [{\"image_id\", \"category_id\", \
     \"bbox\": [x, y, width, height], \"score\"}, …]";

fn json<T: DeserializeOwned>(path: &Path, form: &'static str) -> Result<T> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    // Its message has the line.
    serde_json::from_slice(bytes).context(form).with_context(|| path.display().to_string())
}

fn stem(name: &str) -> String {
    // Files made on Windows have its separators.
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
}

impl Truth {
    /// Reads a COCO file or a folder of YOLO's. `names` are those of the classes 0, 1, …; `pictures` the
    /// folder of the images, for their sizes. Without it the images of YOLO's ground truth are also those that
    /// something was `found` in: all are known before any is scored, so that what comes of detections of one
    /// score does not depend on the other methods.
    ///
    /// # Errors
    /// Anything wrong in it, with file and line: scores against a part of the truth would be others.
    pub fn read(
        path: &Path,
        names: Option<&[String]>,
        pictures: Option<&Path>,
        found: &[&Path],
    ) -> Result<Self> {
        let truth = match path.is_dir() {
            true => Self::yolo(path, names, pictures, found),
            false => Self::coco(path, names, pictures),
        }?;
        ensure!(
            truth.objects.iter().any(|object| !object.crowd),
            "{} has no objects, so there is nothing to find",
            path.display()
        );
        Ok(truth)
    }

    /// How many images it is of.
    pub fn image_count(&self) -> usize {
        self.images.count
    }

    fn coco(path: &Path, names: Option<&[String]>, pictures: Option<&Path>) -> Result<Self> {
        let CocoTruth { images, annotations, mut categories } = json(path, TRUTH_FORM)?;
        let told = path.display();
        let mut truth = Self::default();
        let measured = pictures.map(picture_sizes).transpose()?;
        for CocoImage { id, file_name, width, height } in images {
            ensure!(
                !truth.images.by_id.contains_key(&id),
                "{told}: two images have the id {id}: needs one of its own for each"
            );
            let stem = file_name.as_deref().map(stem);
            let size = width.zip(height).filter(|(w, h)| *w > 0. && *h > 0.);
            let found = || measured.as_ref()?.get(stem.as_ref()?).copied();
            let size = size.or_else(found);
            truth.images.add(Some(id), stem, size);
        }
        categories.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some(names) = names {
            ensure!(
                names.len() == categories.len(),
                "--classes names {} classes but {told} has {}: needs a name for each, in the order \
                 of their ids",
                names.len(),
                categories.len()
            );
        }
        for (at, CocoClass { id, name }) in categories.into_iter().enumerate() {
            let name = names.map(|names| names[at].clone()).or(name);
            let name = name.unwrap_or_else(|| id.to_string());
            let twice = truth.class_places.insert(id.clone(), at).is_some();
            ensure!(
                !twice,
                "{told}: two categories have the id {id}: needs one of its own for each"
            );
            truth.classes.push((id, name));
        }
        for (at, object) in annotations.into_iter().enumerate() {
            let place = || format!("{told}: annotation {} of the list", at + 1);
            let Some(&image) = truth.images.by_id.get(&object.image_id) else {
                bail!("{} is in image {}, which is not among its images", place(), object.image_id);
            };
            let Some(&class) = truth.class_places.get(&object.category_id) else {
                bail!(
                    "{} is of category {}, which is not among its categories",
                    place(),
                    object.category_id
                );
            };
            let [x, y, w, h] = object.bbox;
            let bbox = BoundingBox::new(x, y, w, h).with_context(place)?;
            let crowd = match object.iscrowd {
                Some(Flag::Number(number)) => number != 0.,
                Some(Flag::Truth(crowd)) => crowd,
                None => false,
            };
            truth.objects.push(GroundTruth { image, class, bbox, crowd });
        }
        truth.part_names();
        Ok(truth)
    }

    fn yolo(
        folder: &Path,
        names: Option<&[String]>,
        pictures: Option<&Path>,
        found: &[&Path],
    ) -> Result<Self> {
        let own = folder.join("classes.txt");
        let names = match names {
            Some(names) => Some(names.to_vec()),
            None if own.is_file() => Some(crate::evaluate::tasks::class_names(&own)?),
            None => None,
        };
        let mut truth = Self { nameless: names.is_none(), ..Self::default() };
        let sizes = pictures.map(picture_sizes).transpose()?;
        let files = text_files(folder)?;
        let mut stems: BTreeSet<String> = files.iter().map(|(stem, _)| stem.clone()).collect();
        match &sizes {
            Some(sizes) => stems.extend(sizes.keys().cloned()),
            None => {
                let folders = found.iter().filter(|path| path.is_dir());
                // One that cannot be read is told of when it is scored.
                let files = folders.filter_map(|path| text_files(path).ok()).flatten();
                stems.extend(files.map(|(stem, _)| stem));
            }
        }
        truth.images.in_parts = sizes.is_none();
        for stem in &stems {
            let size = sizes.as_ref().and_then(|sizes| sizes.get(stem).copied());
            // By its number, if its name is one, COCO results know it.
            let id = stem.parse().ok().map(Id::Number);
            let id = id.filter(|id| !truth.images.by_id.contains_key(id));
            truth.images.add(id, Some(stem.clone()), size);
        }
        let mut classes = names.as_ref().map_or(0, Vec::len);
        for (stem, path) in &files {
            let image = truth.images.of_stem(stem);
            let Some(image) = image else { continue };
            let size = truth.images.sizes[image];
            ensure!(
                sizes.is_none() || size.is_some(),
                "{} belongs to no picture of the folder of --images",
                path.display()
            );
            for line in yolo_lines(path)? {
                let Line { class, bbox, .. } = line.of_truth(size)?;
                match &names {
                    Some(names) if class >= names.len() => bail!(
                        "{}: class {class} has no name: needs 0 to {}",
                        line.place(),
                        names.len() - 1
                    ),
                    _ => classes = classes.max(class + 1),
                }
                truth.objects.push(GroundTruth { image, class, bbox, crowd: false });
            }
        }
        truth.classes = (0..classes)
            .map(|class| {
                let name = names.as_ref().and_then(|names| names.get(class).cloned());
                (Id::Number(class as i64), name.unwrap_or_else(|| class.to_string()))
            })
            .collect();
        let places = truth.classes.iter().enumerate();
        truth.class_places = places.map(|(at, (id, _))| (id.clone(), at)).collect();
        Ok(truth)
    }

    /// Two classes of one name have their numbers behind it.
    fn part_names(&mut self) {
        let mut counts = HashMap::<String, usize>::new();
        self.classes.iter().for_each(|(_, name)| *counts.entry(name.clone()).or_default() += 1);
        for (id, name) in self.classes.iter_mut().filter(|(_, name)| counts[name] > 1) {
            *name = format!("{name} ({id})");
        }
    }

    /// Reads what a method found in a COCO file of results or a folder of YOLO's.
    ///
    /// # Errors
    /// If it cannot be read as either; what is wrong with a single detection is counted instead.
    pub fn find(&self, path: &Path) -> Result<Found> {
        let mut left = LeftOut::default();
        let detections = match path.is_dir() {
            true => self.yolo_found(path, &mut left)?,
            false => self.coco_found(path, &mut left)?,
        };
        let left_out = left.told();
        if let (true, Some(first)) = (detections.is_empty(), left_out.first()) {
            bail!("nothing in {} can be scored: {first}", path.display());
        }
        Ok(Found { detections, left_out })
    }

    fn coco_found(&self, path: &Path, left: &mut LeftOut) -> Result<Vec<Detection>> {
        let results: Vec<CocoResult> = json(path, RESULT_FORM)?;
        let mut detections = Vec::with_capacity(results.len());
        ensure!(
            !self.images.in_parts || results.is_empty(),
            "{} has boxes in pixels and the ground truth parts of an image: needs --images, the folder \
             of the pictures, for their sizes",
            path.display()
        );
        for (at, CocoResult { image_id, category_id, bbox: [x, y, w, h], score }) in
            results.into_iter().enumerate()
        {
            let place = || format!("{}, result {} of the list", path.display(), at + 1);
            let Some(image) = self.images.of_id(&image_id) else {
                *left.unknown_images.entry(image_id).or_default() += 1;
                continue;
            };
            let Some(&class) = self.class_places.get(&category_id) else {
                *left.unknown_classes.entry(category_id).or_default() += 1;
                continue;
            };
            match BoundingBox::new(x, y, w, h) {
                Ok(_) if !score.is_finite() => {
                    left.fault(format_args!("{}: its score is {score}; needs a number", place()));
                }
                Ok(bbox) => detections.push(Detection { image, class, bbox, score }),
                Err(error) => left.fault(format_args!("{}: {error}", place())),
            }
        }
        Ok(detections)
    }

    fn yolo_found(&self, folder: &Path, left: &mut LeftOut) -> Result<Vec<Detection>> {
        let mut detections = Vec::new();
        for (stem, path) in text_files(folder)? {
            let lines = yolo_lines(&path)?;
            let image = match self.images.of_stem(&stem) {
                None => {
                    if !lines.is_empty() {
                        *left.unknown_images.entry(Id::Text(stem)).or_default() += lines.len();
                    }
                    continue;
                }
                Some(image) => image,
            };
            let size = self.images.sizes[image];
            ensure!(
                self.images.in_parts || size.is_some(),
                "the size of image {stem} is not known, of which {} has parts: needs width and height \
                 in the ground truth, or --images, the folder of the pictures",
                path.display()
            );
            for line in lines {
                let Line { class, bbox, score } = match line.of_detection(size) {
                    Ok(read) => read,
                    Err(error) => {
                        left.fault(format_args!("{error:#}"));
                        continue;
                    }
                };
                let known = class < self.classes.len();
                if !known && !self.nameless {
                    *left.unknown_classes.entry(Id::Number(class as i64)).or_default() += 1;
                    continue;
                }
                detections.push(Detection { image, class, bbox, score });
            }
        }
        Ok(detections)
    }
}

/// Width and height in pixels of the pictures of a folder, by their stems.
fn picture_sizes(folder: &Path) -> Result<BTreeMap<String, (f64, f64)>> {
    let listed = Folder::list(folder)?;
    ensure!(!listed.pictures.is_empty(), "{} has no pictures", folder.display());
    let mut sizes = BTreeMap::new();
    for (stem, pictures) in listed.by_stem() {
        let [picture] = pictures[..] else {
            let names = first_few(pictures.iter().map(|picture| picture.display()));
            bail!("which of these is the picture {stem}: {names}?");
        };
        // By its content: extensions are wrong at times.
        let size = image::ImageReader::open(picture)
            .and_then(image::ImageReader::with_guessed_format)
            .map_err(anyhow::Error::from)
            .and_then(|reader| Ok(reader.into_dimensions()?))
            .with_context(|| format!("cannot read the size of {}", picture.display()))?;
        sizes.insert(stem.to_owned(), (f64::from(size.0), f64::from(size.1)));
    }
    Ok(sizes)
}

/// The `.txt` files of a folder by their stems, in their order; not its `classes.txt`.
fn text_files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let cannot = || format!("cannot list {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let is_text = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"));
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        match stem {
            Some(stem) if is_text && stem != "classes" && !stem.starts_with('.') => {
                files.push((stem.to_owned(), path));
            }
            _ => {}
        }
    }
    files.sort();
    ensure!(
        !files.is_empty(),
        "{} has no .txt files: needs YOLO's, one for each image, or the name of a COCO JSON file",
        folder.display()
    );
    Ok(files)
}

/// A line of a YOLO file, not yet read.
struct RawLine<'a> {
    path: &'a Path,
    number: usize,
    text: String,
}

/// A line of a YOLO file.
struct Line {
    class: usize,
    bbox: BoundingBox,
    score: f64,
}

fn yolo_lines(path: &Path) -> Result<Vec<RawLine<'_>>> {
    let text = text_of(path)?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    Ok(lines.map(|(line, number)| RawLine { path, number, text: line.to_owned() }).collect())
}

/// How far outside the image, in parts of it, a box may reach: what a network is not sure of lies partly
/// beyond the border, and to leave it out would better the score. Pixels are far larger.
const BEYOND: f64 = 1.;

impl RawLine<'_> {
    fn place(&self) -> String {
        format!("{}, line {}", self.path.display(), self.number)
    }

    fn of_truth(&self, size: Option<(f64, f64)>) -> Result<Line> {
        self.read(size, 5, "class x y width height").with_context(|| self.place())
    }

    fn of_detection(&self, size: Option<(f64, f64)>) -> Result<Line> {
        self.read(size, 6, "class x y width height confidence").with_context(|| self.place())
    }

    fn read(&self, size: Option<(f64, f64)>, count: usize, form: &str) -> Result<Line> {
        let fields: Vec<&str> = self.text.split_whitespace().collect();
        if fields.len() == 5 && count == 6 {
            bail!(
                "it has no confidence, which AP needs: needs {form} (of Ultralytics save_conf=True)"
            );
        }
        ensure!(fields.len() == count, "it has {} fields: needs {form}", fields.len());
        let names = ["class", "x", "y", "width", "height", "confidence"];
        let mut values = [0.; 6];
        for ((value, field), name) in values.iter_mut().zip(&fields).zip(names) {
            *value = match field.parse::<f64>() {
                Ok(number) if number.is_finite() => number,
                _ => bail!("its {name} is {field}: needs a number"),
            };
        }
        let [class, x, y, w, h, score] = values;
        // As many as fit the file formats of segmentation; a place in a list is one of them.
        ensure!(
            class.fract() == 0. && (0. ..65536.).contains(&class),
            "its class is {}: needs a whole number from 0 to 65535",
            fields[0]
        );
        for (at, value) in [x, y, w, h].into_iter().enumerate() {
            ensure!(
                (-BEYOND..=1. + BEYOND).contains(&value) && (at < 2 || value >= 0.),
                "its {} is {}: needs a part of the image, from 0 to 1, not pixels",
                names[at + 1],
                fields[at + 1]
            );
        }
        ensure!(
            (0. ..=1.).contains(&score),
            "its confidence is {}: needs 0 to 1, and last in the line: {form}",
            fields.last().unwrap_or(&"")
        );
        // Without a size, in parts of the image: IoU is the same in both.
        let (width, height) = size.unwrap_or((1., 1.));
        let bbox =
            BoundingBox::new((x - w / 2.) * width, (y - h / 2.) * height, w * width, h * height)?;
        Ok(Line { class: class as usize, bbox, score })
    }
}

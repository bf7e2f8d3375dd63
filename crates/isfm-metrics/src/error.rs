use crate::Metric;

/// What can go wrong in this crate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A plane without a pixel.
    #[error("a plane of {width}x{height} has no pixels; needs at least 1x1")]
    Empty {
        /// The width given.
        width: usize,
        /// The height given.
        height: usize,
    },
    /// Data that do not fill the plane.
    #[error("{got} pixels for a plane of {width}x{height}; needs width times height of them")]
    Length {
        /// How many pixels were given.
        got: usize,
        /// The width given.
        width: usize,
        /// The height given.
        height: usize,
    },
    /// A pixel that is not a grey level.
    #[error("pixel ({x}, {y}) is {value}; needs 0 to 255")]
    Pixel {
        /// The pixel's value.
        value: f64,
        /// The pixel's column.
        x: usize,
        /// The pixel's row.
        y: usize,
    },
    /// Three images of different sizes.
    #[error(
        "visible is {}x{}, infrared {}x{}, fused {}x{}; needs one size for all three",
        visible.0, visible.1, infrared.0, infrared.1, fused.0, fused.1
    )]
    SizeMismatch {
        /// Width and height of the visible image.
        visible: (usize, usize),
        /// Width and height of the infrared image.
        infrared: (usize, usize),
        /// Width and height of the fused image.
        fused: (usize, usize),
    },
    /// Images too small for a metric's windows.
    #[error("{metric} of {width}x{height} images: needs at least {needed} pixels each way")]
    TooSmall {
        /// The metric.
        metric: Metric,
        /// The images' width.
        width: usize,
        /// The images' height.
        height: usize,
        /// The smallest width and height that would do.
        needed: usize,
    },
    /// A convention that there is not.
    #[error("no convention {0:?}; needs released, linfeng, cddfuse, vifb or ivif-zoo")]
    Convention(String),
    /// A method with too few or too many scores.
    #[error("method {row} has {got} scores; needs {needed}, one for each direction")]
    TableRow {
        /// The method's place in the table, from 0.
        row: usize,
        /// How many scores it has.
        got: usize,
        /// How many it needs.
        needed: usize,
    },
    /// A score that cannot be ranked.
    #[error("score {column} of method {row} is not a number and cannot be ranked")]
    TableNan {
        /// The method's place in the table, from 0.
        row: usize,
        /// The score's place in the row, from 0.
        column: usize,
    },
    /// A table without scores.
    #[error("a table of {methods} methods and {metrics} metrics has nothing to rank")]
    TableEmpty {
        /// How many methods the table has.
        methods: usize,
        /// How many metrics it has.
        metrics: usize,
    },
    /// A box that is none.
    #[error(
        "a box at ({x}, {y}) of {width}x{height}; needs finite numbers and no negative width or \
         height"
    )]
    BoundingBox {
        /// Its left edge.
        x: f64,
        /// Its upper edge.
        y: f64,
        /// Its width.
        width: f64,
        /// Its height.
        height: f64,
    },
    /// A detection that cannot be put in order.
    #[error("the score of detection {index} is not a number")]
    DetectionScore {
        /// The detection's place among those given, from 0.
        index: usize,
    },
    /// A lowest score that nothing can be compared with.
    #[error("the lowest score to count is not a number")]
    MinimumScore,
    /// IoU thresholds that cannot be used, or one that was not among those evaluated.
    #[error(
        "IoU thresholds {0:?}; needs at least one, all above 0 and up to 1, rising, and asked for \
         later only if evaluated"
    )]
    IouThresholds(Vec<f64>),
    /// Too few or too many classes, or two matrices of different ones.
    #[error("{0} classes; needs 1 to 65536, and the same number in matrices that are merged")]
    Classes(usize),
    /// Label maps of different sizes.
    #[error("{truth} true labels and {predicted} predicted ones; needs as many of both")]
    LabelMaps {
        /// How many true labels were given.
        truth: usize,
        /// How many predicted labels were given.
        predicted: usize,
    },
    /// A label of no class.
    #[error("label {label} at pixel {index} is none of the classes 0 to {}", classes - 1)]
    Label {
        /// The label.
        label: u32,
        /// The pixel's place, from 0.
        index: usize,
        /// How many classes there are.
        classes: usize,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    /// One of each kind. The match stops a build in which a new kind was forgotten.
    fn all() -> Vec<Error> {
        use Error::*;
        let all = vec![
            Empty { width: 0, height: 5 },
            Length { got: 7, width: 2, height: 3 },
            Pixel { value: 256., x: 1, y: 2 },
            SizeMismatch { visible: (1, 2), infrared: (1, 2), fused: (2, 1) },
            TooSmall { metric: Metric::Vif, width: 9, height: 8, needed: 41 },
            Convention("vif".into()),
            TableRow { row: 1, got: 2, needed: 3 },
            TableNan { row: 1, column: 2 },
            TableEmpty { methods: 0, metrics: 2 },
            BoundingBox { x: 0., y: 1., width: -1., height: 2. },
            DetectionScore { index: 4 },
            MinimumScore,
            IouThresholds(vec![1.5]),
            Classes(0),
            LabelMaps { truth: 4, predicted: 5 },
            Label { label: 9, index: 3, classes: 2 },
        ];
        for error in &all {
            match error {
                Empty { .. } | Length { .. } | Pixel { .. } | SizeMismatch { .. } => (),
                TooSmall { .. } | TableRow { .. } | TableNan { .. } | TableEmpty { .. } => (),
                BoundingBox { .. } | DetectionScore { .. } | MinimumScore | IouThresholds(_) => (),
                Convention(_) => (),
                Classes(_) | LabelMaps { .. } | Label { .. } => (),
            }
        }
        all
    }

    #[test]
    fn every_text_is_its_own_and_repeats_no_source() {
        let texts: Vec<_> = all().iter().map(Error::to_string).collect();
        for (error, text) in all().iter().zip(&texts) {
            assert_eq!(texts.iter().filter(|other| *other == text).count(), 1, "{text}");
            let repeated = error.source().is_some_and(|source| text.contains(&source.to_string()));
            assert!(!repeated, "{text}");
        }
    }
}

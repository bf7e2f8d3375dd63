/// Where the channels of a 4-D tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataFormat {
    /// B×H×W×C.
    ChannelsLast,
    /// B×C×H×W.
    ChannelsFirst,
}

impl DataFormat {
    /// The dimension that counts channels.
    pub(crate) fn channel_dim(self) -> usize {
        match self {
            Self::ChannelsLast => 3,
            Self::ChannelsFirst => 1,
        }
    }

    /// The dimensions that count rows and columns.
    pub(crate) fn plane_dims(self) -> (usize, usize) {
        match self {
            Self::ChannelsLast => (1, 2),
            Self::ChannelsFirst => (2, 3),
        }
    }

    /// The dimensions' names in order, for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ChannelsLast => "B×H×W×C",
            Self::ChannelsFirst => "B×C×H×W",
        }
    }
}

/// The sizes of a stack of feature maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    pub(crate) format: DataFormat,
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Maps {
    pub(crate) fn new(format: DataFormat, dims: (usize, usize, usize, usize)) -> Self {
        let (batch, height, width, channels) = match format {
            DataFormat::ChannelsLast => dims,
            DataFormat::ChannelsFirst => (dims.0, dims.2, dims.3, dims.1),
        };
        Self { format, batch, channels, height, width }
    }

    pub(crate) fn dims(&self) -> (usize, usize, usize, usize) {
        match self.format {
            DataFormat::ChannelsLast => (self.batch, self.height, self.width, self.channels),
            DataFormat::ChannelsFirst => (self.batch, self.channels, self.height, self.width),
        }
    }

    pub(crate) fn resized(self, height: usize, width: usize) -> Self {
        Self { height, width, ..self }
    }

    pub(crate) fn elements(&self) -> usize {
        self.batch * self.channels * self.height * self.width
    }

    /// Elements that lie together at one position: both formats are then planes × H × W × pixel.
    pub(crate) fn pixel(&self) -> usize {
        match self.format {
            DataFormat::ChannelsLast => self.channels,
            DataFormat::ChannelsFirst => 1,
        }
    }

    /// Elements of one row of one plane.
    pub(crate) fn row(&self) -> usize {
        self.width * self.pixel()
    }
}

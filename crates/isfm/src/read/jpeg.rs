//! Whether a JPEG file holds all of its picture.
//!
//! Decoders, as browsers want it, fill what is missing with grey and say nothing. This walks the
//! Huffman codes of every scan (ITU-T T.81, baseline and progressive) without making pixels, and so
//! finds data that stop early, whether by the end of the file, a marker or a lost restart interval,
//! and progressive pictures whose last scans are missing. An end mark that alone is missing is no
//! fault, and neither are stray bytes between segments.

use std::ops::Range;

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const APP2: u8 = 0xe2;

/// More units than any encoder's scans have in a picture of the largest size that is read; a small file
/// with many scans over a large picture would take hours.
const MOST_UNITS: usize = 1 << 27;

/// A marker and where its segment's bytes are; nothing for one that has no segment.
pub(super) type Segment = (u8, Range<usize>);

/// The next segment, from `*at` on, which is set behind it.
pub(super) fn segment(bytes: &[u8], at: &mut usize) -> Option<Segment> {
    loop {
        // What is no marker, entropy-coded data included, is passed over.
        *at += bytes.get(*at..)?.iter().position(|&b| b == 0xff)?;
        let marker = *bytes.get(*at + 1)?;
        match marker {
            0xff => *at += 1,
            0 | 1 | 0xd0..=0xd7 => *at += 2,
            SOI | EOI => {
                *at += 2;
                return Some((marker, *at..*at));
            }
            _ => {
                let length = bytes.get(*at + 2..*at + 4)?;
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                let (start, end) = (*at + 4, *at + 2 + length);
                bytes.get(start..end)?;
                *at = end;
                return Some((marker, start..end));
            }
        }
    }
}

/// Pictures in a file, as its index lists them (CIPA DC-007, Multi-Picture Format), small copies left out; 1
/// where there is no index.
pub(super) fn pictures(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some((marker, range)) = segment(bytes, &mut at).filter(|segment| segment.0 != SOS) {
        if let (APP2, Some(index)) = (marker, bytes[range].strip_prefix(b"MPF\0")) {
            return listed(index).unwrap_or(1);
        }
    }
    1
}

/// Pictures of an index, which is laid out as a TIFF file's directory.
fn listed(index: &[u8]) -> Option<usize> {
    const ENTRIES: u16 = 0xb002;
    let big_endian = match index.get(..4)? {
        b"II*\0" => false,
        b"MM\0*" => true,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = index.get(at..)?.first_chunk()?;
        Some(if big_endian { u16::from_be_bytes(*bytes) } else { u16::from_le_bytes(*bytes) })
    };
    let long = |at: usize| {
        let bytes = index.get(at..)?.first_chunk()?;
        Some(if big_endian { u32::from_be_bytes(*bytes) } else { u32::from_le_bytes(*bytes) })
    };
    let directory = long(4)? as usize;
    let mut tags = (0..usize::from(short(directory)?)).map(|i| directory + 2 + 12 * i);
    let entry = tags.find(|&at| short(at) == Some(ENTRIES))?;
    let (length, start) = (long(entry + 4)? as usize, long(entry + 8)? as usize);
    index.get(start..start.checked_add(length)?)?;
    // Of the 16 bytes of an entry the first four hold its type: 1 in the third is a small copy.
    let kinds = (start..start + length).step_by(16).filter_map(long);
    Some(kinds.filter(|kind| kind >> 16 & 0xff != 1).count())
}

/// Walks a file's data. What this does not know (arithmetic coding, lossless frames), and what is
/// wrong in a header, is left to the decoder, which refuses it.
///
/// # Errors
/// What is missing.
pub(super) fn complete(bytes: &[u8]) -> Result<(), String> {
    let mut at = 0;
    let mut frame: Option<Frame> = None;
    let (mut dc, mut ac) = (Tables::default(), Tables::default());
    let (mut interval, mut scans, mut units, mut ended) = (0, 0, 0, false);
    while let Some((marker, range)) = segment(bytes, &mut at) {
        let data = &bytes[range];
        match marker {
            EOI => {
                ended = true;
                break;
            }
            0xc0..=0xc2 if frame.is_none() => match Frame::read(data, marker == 0xc2) {
                Some(read) => frame = Some(read),
                None => return Ok(()),
            },
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => return Ok(()),
            0xc4 => read_tables(data, &mut dc, &mut ac).ok_or("a Huffman table is damaged")?,
            0xdd if data.len() >= 2 => {
                interval = usize::from(u16::from_be_bytes([data[0], data[1]]))
            }
            SOS => {
                let Some(frame) = &mut frame else { return Ok(()) };
                let scan = Scan::read(data, frame).ok_or("the header of a scan is damaged")?;
                scans += 1;
                units += scan.size(frame).iter().product::<usize>();
                if units > MOST_UNITS {
                    return Err(format!("its {scans} scans are too many for its size"));
                }
                let mut bits = Bits { bytes, at, held: 0, count: 0 };
                let Some((done, all)) = scan.walk(frame, &mut bits, &dc, &ac, interval) else {
                    return Ok(());
                };
                if done < all {
                    return Err(format!(
                        "it is cut off or damaged: the data end after {done} of the {all} units \
                         of scan {scans}"
                    ));
                }
                ended = bits.at_marker() && bits.at == bytes.len();
                at = bits.at;
            }
            _ => {}
        }
    }
    match frame {
        Some(_) if scans == 0 => Err("it is cut off: nothing of its picture is there".into()),
        Some(frame) if frame.components.iter().any(|c| c.missing.iter().any(|&bits| bits > 0)) => {
            Err("it is cut off: the last scans of a progressive picture are missing".into())
        }
        Some(_) if !ended => {
            Err("it is cut off or damaged: what follows the data is no end".into())
        }
        _ => Ok(()),
    }
}

/// Huffman tables by their number.
type Tables = [Option<Huffman>; 4];

struct Huffman {
    /// For each length of a code in bits less one, what all codes up to it, read as 16 bits, are below.
    limit: [u32; 16],
    /// What added to a code of that length gives its value's place.
    offset: [i32; 16],
    values: Vec<u8>,
}

impl Huffman {
    fn new(counts: &[u8], values: &[u8]) -> Option<Self> {
        let (mut code, mut place) = (0u32, 0i32);
        let (mut limit, mut offset) = ([0; 16], [0; 16]);
        for (i, &count) in counts.iter().enumerate() {
            offset[i] = place - code as i32;
            (code, place) = (code + u32::from(count), place + i32::from(count));
            limit[i] = code << (15 - i);
            code *= 2;
        }
        (limit[15] <= 1 << 16 && limit.is_sorted()).then(|| Self {
            limit,
            offset,
            values: values.to_vec(),
        })
    }

    /// The next code's value; none if the bits end or are no code.
    fn decode(&self, bits: &mut Bits<'_>) -> Option<u8> {
        let next = bits.peek();
        let i = self.limit.iter().position(|&limit| next < limit)?;
        bits.take(i as u32 + 1)?;
        let place = (next >> (15 - i)) as i32 + self.offset[i];
        self.values.get(usize::try_from(place).ok()?).copied()
    }
}

fn read_tables(mut data: &[u8], dc: &mut Tables, ac: &mut Tables) -> Option<()> {
    while let Some((&head, rest)) = data.split_first() {
        let (counts, rest) = rest.split_at_checked(16)?;
        let all = counts.iter().map(|&n| usize::from(n)).sum();
        let (values, rest) = rest.split_at_checked(all)?;
        let tables = if head >> 4 == 0 { &mut *dc } else { &mut *ac };
        *tables.get_mut(usize::from(head & 15))? = Some(Huffman::new(counts, values)?);
        data = rest;
    }
    Some(())
}

/// The bits of entropy-coded data, up to the next marker.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
}

impl Bits<'_> {
    fn fill(&mut self) {
        while self.count <= 56 {
            let step = match self.bytes[self.at..] {
                [0xff, 0, ..] => 2,
                [0xff, ..] | [] => return,
                _ => 1,
            };
            self.held = self.held << 8 | u64::from(self.bytes[self.at]);
            (self.at, self.count) = (self.at + step, self.count + 8);
        }
    }

    /// The next 16 bits, zeros after the last.
    fn peek(&mut self) -> u32 {
        if self.count < 16 {
            self.fill();
        }
        let bits = match self.count {
            16.. => self.held >> (self.count - 16),
            _ => self.held << (16 - self.count),
        };
        (bits & 0xffff) as u32
    }

    /// Takes at most 16 bits; none if there are not so many.
    fn take(&mut self, count: u32) -> Option<u32> {
        let bits = u64::from(self.peek()) >> 16u32.checked_sub(count)?;
        self.count = self.count.checked_sub(count)?;
        Some(bits as u32)
    }

    /// Whether all bytes so far are used.
    fn at_marker(&mut self) -> bool {
        self.fill();
        self.count < 8
    }

    /// Goes on behind the restart marker of this number, which comes next.
    fn restart(&mut self, number: usize) -> Option<()> {
        self.at_marker().then_some(())?;
        (self.held, self.count) = (0, 0);
        let fill = self.bytes[self.at..].iter().take_while(|&&b| b == 0xff).count();
        self.at += fill + 1;
        (fill > 0 && *self.bytes.get(self.at - 1)? == 0xd0 + (number % 8) as u8).then_some(())
    }
}

struct Component {
    id: u8,
    /// Blocks of a unit across and down.
    sampling: [usize; 2],
    /// Blocks across and down.
    size: [usize; 2],
    /// Blocks in a row with those that fill up the last unit.
    stride: usize,
    /// Of each block of a progressive picture, which coefficients are not 0 so far.
    nonzero: Vec<u64>,
    /// How many low bits of each coefficient are still to come.
    missing: [u8; 64],
}

struct Frame {
    progressive: bool,
    /// Units across and down, of as many blocks of each component as its sampling says.
    units: [usize; 2],
    components: Vec<Component>,
}

impl Frame {
    fn read(data: &[u8], progressive: bool) -> Option<Self> {
        let &[_, y1, y0, x1, x0, count, ref rest @ ..] = data else { return None };
        let size = [[x1, x0], [y1, y0]].map(|n| usize::from(u16::from_be_bytes(n)));
        let parts = rest.chunks_exact(3).take(count.into());
        let parts = parts.map(|c| (c[0], [c[1] >> 4, c[1] & 15].map(usize::from)));
        let parts: Vec<(u8, [usize; 2])> = parts.collect();
        let sound = |&(_, sampling): &(_, [usize; 2])| sampling.iter().all(|n| (1..=4).contains(n));
        if size.contains(&0) || !(1..=4).contains(&parts.len()) || !parts.iter().all(sound) {
            return None;
        }
        let most = [0, 1].map(|i| parts.iter().map(|p| p.1[i]).max().unwrap_or(1));
        let units = [0, 1].map(|i| size[i].div_ceil(8 * most[i]));
        let component = |(id, sampling): (u8, [usize; 2])| {
            let stride = units[0] * sampling[0];
            let blocks = if progressive { stride * units[1] * sampling[1] } else { 0 };
            let size = [0, 1].map(|i| (size[i] * sampling[i]).div_ceil(most[i]).div_ceil(8));
            Component { id, sampling, size, stride, nonzero: vec![0; blocks], missing: [16; 64] }
        };
        let components = parts.into_iter().map(component).collect();
        Some(Self { progressive, units, components })
    }
}

struct Scan {
    /// Component, DC table, AC table.
    parts: Vec<(usize, usize, usize)>,
    first: usize,
    last: usize,
    /// Whether earlier scans have had the coefficients' higher bits.
    refines: bool,
}

impl Scan {
    fn read(data: &[u8], frame: &mut Frame) -> Option<Self> {
        let (&count, rest) = data.split_first()?;
        let (parts, rest) = rest.split_at_checked(2 * usize::from(count))?;
        let parts = parts.chunks_exact(2).map(|p| {
            let component = frame.components.iter().position(|c| c.id == p[0])?;
            Some((component, usize::from(p[1] >> 4), usize::from(p[1] & 15)))
        });
        let parts: Vec<_> = parts.collect::<Option<_>>()?;
        let &[first, last, bits, ..] = rest else { return None };
        let (first, last, bits) = if frame.progressive { (first, last, bits) } else { (0, 63, 0) };
        let (first, last) = (usize::from(first), usize::from(last));
        let alone = parts.len() == 1 || first == 0;
        let dc_only = !frame.progressive || first > 0 || last == 0;
        if !(1..=4).contains(&parts.len()) || first > last || last > 63 || !alone || !dc_only {
            return None;
        }
        for &(component, ..) in &parts {
            frame.components[component].missing[first..=last].fill(bits & 15);
        }
        Some(Self { parts, first, last, refines: bits >> 4 > 0 })
    }

    /// Units across and down that this scan codes, blocks where it has one component alone.
    fn size(&self, frame: &Frame) -> [usize; 2] {
        match self.parts[..] {
            [(component, ..)] => frame.components[component].size,
            _ => frame.units,
        }
    }

    /// How many units the data have, and how many there should be; nothing without the tables, which
    /// some cameras leave out because everybody knows them.
    fn walk(
        &self,
        frame: &mut Frame,
        bits: &mut Bits<'_>,
        dc: &Tables,
        ac: &Tables,
        interval: usize,
    ) -> Option<(usize, usize)> {
        let find = |tables: &'_ Tables, i: usize| tables.get(i).is_some_and(Option::is_some);
        let (needs_dc, needs_ac) = (self.first == 0 && !self.refines, self.last > 0);
        let known = |p: &(usize, usize, usize)| {
            (!needs_dc || find(dc, p.1)) && (!needs_ac || find(ac, p.2))
        };
        if !self.parts.iter().all(known) {
            return None;
        }
        let alone = self.parts.len() == 1;
        let [across, down] = self.size(frame);
        let all = across * down;
        let mut run = 0;
        for unit in 0..all {
            if interval > 0 && unit > 0 && unit % interval == 0 {
                run = 0;
                if bits.restart(unit / interval - 1).is_none() {
                    return Some((unit, all));
                }
            }
            for &(component, dc_table, ac_table) in &self.parts {
                let tables =
                    [dc.get(dc_table), ac.get(ac_table)].map(|t| t.and_then(Option::as_ref));
                let component = &mut frame.components[component];
                let [width, height] = if alone { [1, 1] } else { component.sampling };
                let (left, top) = (unit % across * width, unit / across * height);
                for block in 0..width * height {
                    let place = (top + block / width) * component.stride + left + block % width;
                    let mut none = 0;
                    let nonzero = component.nonzero.get_mut(place).unwrap_or(&mut none);
                    if self.block(tables, bits, nonzero, &mut run).is_none() {
                        return Some((unit, all));
                    }
                }
            }
        }
        Some((all, all))
    }

    /// Passes over a block. `run` counts the blocks that follow without a code of their own.
    fn block(
        &self,
        [dc, ac]: [Option<&Huffman>; 2],
        bits: &mut Bits<'_>,
        nonzero: &mut u64,
        run: &mut u32,
    ) -> Option<()> {
        let (mut k, last) = (self.first, self.last);
        if k == 0 {
            let size = if self.refines { 1 } else { dc?.decode(bits)? };
            bits.take(size.into())?;
            k = 1;
        }
        while *run == 0 && k <= last {
            let code = ac?.decode(bits)?;
            let (mut zeros, size) = (u32::from(code >> 4), u32::from(code & 15));
            if size == 0 && zeros < 15 {
                *run = (1 << zeros) + bits.take(zeros)?;
                break;
            }
            // A new coefficient's bits follow its code, a refined one's sign; after it the next bits of
            // those that it passes over.
            bits.take(if self.refines { size.min(1) } else { size })?;
            while k <= last {
                if self.refines && *nonzero >> k & 1 == 1 {
                    bits.take(1)?;
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                k += 1;
            }
            if size > 0 {
                *nonzero |= 1u64.checked_shl(k as u32).filter(|_| k <= last)?;
            }
            k += 1;
        }
        if *run > 0 {
            if self.refines && k <= last {
                let known = (*nonzero >> k << k) & (u64::MAX >> (63 - last));
                (0..known.count_ones()).try_for_each(|_| bits.take(1).map(drop))?;
            }
            *run -= 1;
        }
        Some(())
    }
}

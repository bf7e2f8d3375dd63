//! The element types that files store, and their values as `f32`.

use half::{bf16, f16};
use safetensors::Dtype;

/// The type of a stored element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    /// The one without infinities.
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
}

impl Element {
    pub(super) fn of_safetensors(dtype: Dtype) -> Option<Self> {
        Some(match dtype {
            Dtype::F64 => Self::F64,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            Dtype::F8_E4M3 => Self::F8E4M3,
            Dtype::F8_E5M2 => Self::F8E5M2,
            Dtype::I64 => Self::I64,
            Dtype::I32 => Self::I32,
            Dtype::I16 => Self::I16,
            Dtype::I8 => Self::I8,
            Dtype::U64 => Self::U64,
            Dtype::U32 => Self::U32,
            Dtype::U16 => Self::U16,
            Dtype::U8 | Dtype::BOOL => Self::U8,
            _ => return None,
        })
    }

    /// By a name of PyTorch's: of a storage's class, without its `Storage`, or of a dtype.
    pub(super) fn of_torch(name: &str) -> Option<Self> {
        Some(match name {
            "Double" | "float64" => Self::F64,
            "Float" | "float32" => Self::F32,
            "Half" | "float16" => Self::F16,
            "BFloat16" | "bfloat16" => Self::Bf16,
            "Float8_e4m3fn" | "float8_e4m3fn" => Self::F8E4M3,
            "Float8_e5m2" | "float8_e5m2" => Self::F8E5M2,
            "Long" | "int64" => Self::I64,
            "Int" | "int32" => Self::I32,
            "Short" | "int16" => Self::I16,
            "Char" | "int8" => Self::I8,
            "UInt64" | "uint64" => Self::U64,
            "UInt32" | "uint32" => Self::U32,
            "UInt16" | "uint16" => Self::U16,
            "Byte" | "uint8" | "Bool" | "bool" => Self::U8,
            _ => return None,
        })
    }

    /// Bytes of an element.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 => 1,
        }
    }

    /// Puts the elements in `bytes` behind `values`. Gives the first number that no `f32` can hold.
    pub(super) fn append(self, bytes: &[u8], values: &mut Vec<f32>) -> Result<(), f64> {
        macro_rules! each {
            ($size:literal, $value:expr) => {
                values.extend(bytes.as_chunks::<$size>().0.iter().map(|&b| $value(b)))
            };
        }
        match self {
            Self::F64 => {
                for &b in bytes.as_chunks::<8>().0 {
                    let value = f64::from_le_bytes(b);
                    if value.is_finite() && (value as f32).is_infinite() {
                        return Err(value);
                    }
                    values.push(value as f32);
                }
            }
            Self::F32 => each!(4, f32::from_le_bytes),
            Self::F16 => each!(2, |b| f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => each!(2, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F8E4M3 => each!(1, |[b]: [u8; 1]| f8_e4m3(b)),
            Self::F8E5M2 => each!(1, |[b]: [u8; 1]| f16::from_le_bytes([0, b]).to_f32()),
            Self::I64 => each!(8, |b| i64::from_le_bytes(b) as f32),
            Self::I32 => each!(4, |b| i32::from_le_bytes(b) as f32),
            Self::I16 => each!(2, |b| f32::from(i16::from_le_bytes(b))),
            Self::I8 => each!(1, |b| f32::from(i8::from_le_bytes(b))),
            Self::U64 => each!(8, |b| u64::from_le_bytes(b) as f32),
            Self::U32 => each!(4, |b| u32::from_le_bytes(b) as f32),
            Self::U16 => each!(2, |b| f32::from(u16::from_le_bytes(b))),
            Self::U8 => each!(1, |[b]: [u8; 1]| f32::from(b)),
        }
        Ok(())
    }
}

fn f8_e4m3(bits: u8) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f32::from(bits & 7) / 8.);
    let size = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction * (-6f32).exp2(),
        _ => (1. + fraction) * ((exponent - 7) as f32).exp2(),
    };
    if bits & 0x80 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_gives_its_values() {
        let one_and_half_and_minus_two: [(Element, &[u8]); 5] = [
            (Element::F64, &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0]),
            (Element::F16, &[0, 0x3e, 0, 0xc0]),
            (Element::Bf16, &[0xc0, 0x3f, 0, 0xc0]),
            (Element::F8E4M3, &[0x3c, 0xc0]),
            (Element::F8E5M2, &[0x3e, 0xc0]),
        ];
        for (element, bytes) in one_and_half_and_minus_two {
            let mut values = Vec::new();
            element.append(bytes, &mut values).unwrap();
            assert_eq!(values, [1.5, -2.], "{element:?}");
        }
        for element in [Element::I64, Element::I32, Element::I16, Element::I8] {
            let mut values = Vec::new();
            element.append(&vec![0xff; element.size()], &mut values).unwrap();
            assert_eq!(values, [-1.], "{element:?}");
        }
        for element in [Element::U64, Element::U32, Element::U16, Element::U8] {
            let mut values = Vec::new();
            element.append(&vec![0xff; element.size()], &mut values).unwrap();
            assert_eq!(values, [(256f64.powi(element.size() as i32) - 1.) as f32], "{element:?}");
        }
        // The smallest, the largest and the one NaN of the eight bits without infinities.
        assert_eq!((f8_e4m3(1), f8_e4m3(0x7e)), (1. / 512., 448.));
        assert!(f8_e4m3(0x7f).is_nan());
        let mut values = Vec::new();
        assert_eq!(Element::F64.append(&1e300f64.to_le_bytes(), &mut values), Err(1e300));
    }
}

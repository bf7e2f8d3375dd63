"""Writes filters.rs beside this file: the taps of PyWavelets' discrete wavelets.

Made with PyWavelets 1.9.0:
    pip install PyWavelets && python filters.py

Only what cannot be derived is written: the decomposition low-pass of an orthogonal wavelet, both
low-passes of a biorthogonal one. That the rest follows as wavelet.rs says is asserted here, to the
last bit.
"""

import importlib.metadata
import pathlib

import pywt


def alternate(f, sign):
    return [sign * (-1) ** k * x for k, x in enumerate(f)]


def check(wavelet):
    dec_lo, dec_hi, rec_lo, rec_hi = wavelet.filter_bank
    assert len(dec_lo) % 2 == 0
    assert dec_hi == alternate(rec_lo, -1), wavelet.name
    assert rec_hi == alternate(dec_lo, 1), wavelet.name


def taps(f):
    return "&[" + ", ".join(repr(x + 0.0) for x in f) + "]"


def orthogonal(family, orders):
    for n in orders:
        w = pywt.Wavelet(f"{family}{n}")
        check(w)
        assert w.rec_lo == w.dec_lo[::-1], w.name
        yield f'("{w.name}", {taps(w.dec_lo)}),'


def biorthogonal():
    for name in pywt.wavelist("bior"):
        w = pywt.Wavelet(name)
        check(w)
        # The reverse biorthogonal wavelet is the other way round.
        r = pywt.Wavelet(name.replace("bior", "rbio"))
        check(r)
        assert r.dec_lo == w.rec_lo[::-1] and r.rec_lo == w.dec_lo[::-1], name
        yield f'("{name[4:]}", {taps(w.dec_lo)}, {taps(w.rec_lo)}),'


version = importlib.metadata.version("PyWavelets")
lines = [
    f"//! Written by tools/filters.py with PyWavelets {version}: change that, not this.",
    "",
    "// Taps, not constants of nature.",
    "#![allow(clippy::approx_constant)]",
    "",
    "/// Orthogonal wavelets: the name, the decomposition low-pass.",
    "#[rustfmt::skip]",
    "pub(crate) const ORTHOGONAL: &[(&str, &[f64])] = &[",
    *orthogonal("db", range(1, 21)),
    *orthogonal("sym", range(2, 21)),
    *orthogonal("coif", range(1, 6)),
    "];",
    "",
    "/// Biorthogonal wavelets: the order, the low-passes of decomposition and reconstruction.",
    "#[rustfmt::skip]",
    "pub(crate) const BIORTHOGONAL: &[(&str, &[f64], &[f64])] = &[",
    *biorthogonal(),
    "];",
]
(pathlib.Path(__file__).parents[1] / "src" / "filters.rs").write_text("\n".join(lines) + "\n")

//! A night road, painted the way a visible and an infrared camera would see it.
//!
//! The scene is a handful of shapes in metres before one pinhole camera. Every point of it has a
//! colour, which counts where light falls, and a warmth, which counts always: lane marks, the
//! sign's text and the leaves are seen by the visible camera only, the walkers outside the
//! headlights and the warm engine by the infrared one only.

use image::{GrayImage, ImageBuffer, Luma, Rgb, RgbImage};
use rayon::prelude::*;

use crate::text;

/// Width and height of the painted pictures.
pub const SIZE: (u32, u32) = (640, 480);

const FOCAL: f32 = 560.;
const CAMERA_HEIGHT: f32 = 1.4;
/// The vanishing point, in pixels.
const CENTRE: (f32, f32) = (318., 212.);
/// Samples per pixel and direction.
const SAMPLES: usize = 3;

type Colour = [f32; 3];

/// Paints the pair: visible in colour, infrared in grey. The same picture on every run.
pub fn night_road() -> (RgbImage, GrayImage) {
    let (visible, heat) = paint(&Scene { walkers: WALKERS, frame: 0 }, SIZE);
    let infrared = GrayImage::from_fn(SIZE.0, SIZE.1, |x, y| Luma([to_byte(heat[[x, y]])]));
    (visible, infrared)
}

/// The same road while people walk, frame `frame` of 25 in a second, `width` pixels wide. The infrared
/// picture has counts of 16 bits as an uncooled camera gives them: some 1500 between the coldest and the
/// warmest thing, from 7000 on.
pub fn walking_road(frame: u32, width: u32) -> (RgbImage, ImageBuffer<Luma<u16>, Vec<u16>>) {
    let seconds = frame as f32 / 25.;
    let mut walkers = WALKERS;
    for who in &mut walkers {
        let (longest, direction) = (0.30, who.stride.signum());
        // From the stride that the still picture has.
        let phase = (who.stride.abs() / longest).clamp(0., 1.).asin();
        who.x += direction * 1.2 * seconds;
        // The nearer leg goes to the front and back: twice that is a pair of steps.
        who.stride = direction * longest * (phase + 5.5 * seconds).sin().abs().max(0.04);
    }
    let size = (width, width * SIZE.1 / SIZE.0);
    let (visible, heat) = paint(&Scene { walkers, frame }, size);
    let counts = |x, y| Luma([(7000. + 1500. * heat[[x, y]]).round() as u16]);
    (visible, ImageBuffer::from_fn(size.0, size.1, counts))
}

/// What moves, and the number that the noise depends on.
struct Scene {
    walkers: [Walker; 4],
    frame: u32,
}

/// Warmth row by row, with the noise of a sensor.
struct Heat {
    width: u32,
    values: Vec<f32>,
}

impl std::ops::Index<[u32; 2]> for Heat {
    type Output = f32;

    fn index(&self, [x, y]: [u32; 2]) -> &f32 {
        &self.values[(y * self.width + x) as usize]
    }
}

fn paint(scene: &Scene, (width, height): (u32, u32)) -> (RgbImage, Heat) {
    let edge = SIZE.0 as f32 / width as f32;
    let pixels = (0..width * height).into_par_iter();
    let (light, heat): (Vec<Colour>, Vec<f32>) =
        pixels.map(|i| pixel(scene, (i % width) as f32, (i / width) as f32, edge)).unzip();
    let mut heat = Heat { width, values: softened(&heat, width as usize) };
    // Grain that is another one in every frame; the columns of a sensor stay as they are.
    let grain = |x: u32, y: u32, seed: u32| gaussian(x, y + scene.frame * height, seed);
    let visible = RgbImage::from_fn(width, height, |x, y| {
        let light = light[(y * width + x) as usize];
        Rgb(std::array::from_fn(|c| {
            let exposed = (1. - (-1.55 * light[c]).exp()).powf(1. / 2.2);
            to_byte(exposed + grain(x, y, c as u32) * (0.014 + 0.012 * exposed))
        }))
    });
    for (i, heat) in (0..).zip(&mut heat.values) {
        let (x, y) = (i % width, i / width);
        // Uncooled sensors: a little noise, and columns that differ a little.
        *heat += 0.009 * grain(x, y, 7) + 0.004 * gaussian(x, 0, 8);
    }
    (visible, heat)
}

/// The light and the warmth that the pixel at `x`, `y` gathers; it has an edge of so many of the still
/// picture's pixels.
fn pixel(scene: &Scene, x: f32, y: f32, edge: f32) -> (Colour, f32) {
    let share = 1. / (SAMPLES * SAMPLES) as f32;
    let (mut light, mut heat) = (glare(edge * (x + 0.5), edge * (y + 0.5)), 0.);
    for s in 0..SAMPLES * SAMPLES {
        let at = |k: usize| (k as f32 + 0.5) / SAMPLES as f32;
        let point = look(scene, edge * (x + at(s % SAMPLES)), edge * (y + at(s / SAMPLES)));
        let seen = add(mul(point.albedo, point.lit()), point.glow);
        light = add(light, scale(seen, share));
        heat += point.heat * share;
    }
    (light, heat)
}

fn to_byte(v: f32) -> u8 {
    (v.clamp(0., 1.) * 255.).round() as u8
}

/// A thermal lens is softer than a visible one: [1 2 1]/4 both ways.
fn softened(plane: &[f32], width: usize) -> Vec<f32> {
    let height = plane.len() / width;
    let blur = |plane: &[f32], dx: usize, dy: usize| -> Vec<f32> {
        (0..plane.len())
            .map(|i| {
                let (x, y) = (i % width, i / width);
                let before = plane[y.saturating_sub(dy) * width + x.saturating_sub(dx)];
                let after = plane[(y + dy).min(height - 1) * width + (x + dx).min(width - 1)];
                0.25 * before + 0.5 * plane[i] + 0.25 * after
            })
            .collect()
    };
    blur(&blur(plane, 1, 0), 0, 1)
}

// ---- light ----------------------------------------------------------------------------------

/// What the camera sees at one point.
struct Point {
    /// Where it is: right, up and ahead, in metres.
    at: [f32; 3],
    albedo: Colour,
    /// Light of its own.
    glow: Colour,
    /// How strongly it throws the headlights back.
    gloss: f32,
    /// 0 the coldest thing in the picture, 1 the warmest.
    heat: f32,
    /// Whether it lies, and so catches the headlights at a grazing angle only.
    flat: bool,
}

impl Point {
    fn upright(at: [f32; 3], albedo: Colour, heat: f32) -> Self {
        Self { at, albedo, glow: [0.; 3], gloss: 1., heat, flat: false }
    }

    /// The light that falls on it.
    fn lit(&self) -> Colour {
        let [x, y, z] = self.at;
        let mut sum = [0.010, 0.013, 0.022];
        for lamp in LAMPS {
            let (dx, dy, dz) = (x - lamp[0], y - lamp[1], z - lamp[2]);
            let d2 = dx * dx + dy * dy + dz * dz;
            let facing = if self.flat { -dy / d2.sqrt() } else { 0.5 };
            sum = add(sum, scale(SODIUM, 21. * facing.max(0.) / (d2 + 2.)));
        }
        // Our own low beams: a cone to the front that is cut off at the height of a bumper.
        let aside = (x / (1.1 + 0.10 * z)).powi(2);
        let cut = smooth(1.3, 0.5, y) + 0.05;
        let near = smooth(2.5, 8., z);
        let grazing = if self.flat { 0.8 } else { 1.5 };
        let beam = 58. * grazing * near * (-aside).exp() * cut / (z * z + 30.) * self.gloss;
        add(sum, scale([1., 0.96, 0.86], beam))
    }
}

const SODIUM: Colour = [1., 0.62, 0.28];
/// The heads of the street lamps.
const LAMPS: [[f32; 3]; 3] = [[-5.0, 5.6, 13.], [-5.0, 5.6, 27.], [-5.0, 5.6, 44.]];
/// Headlights of the car that comes towards us.
const ONCOMING: (f32, f32) = (-3.3, 30.);

/// Light that scatters in lens and air around the lamps.
fn glare(x: f32, y: f32) -> Colour {
    let around = |at: [f32; 3], strength: f32, radius: f32| {
        let (sx, sy) = project(at);
        let d2 = ((x - sx).powi(2) + (y - sy).powi(2)) / (radius * radius);
        strength * ((-d2).exp() + 0.10 / (1. + d2 / 6.).powf(1.5))
    };
    let mut sum = [0.; 3];
    for lamp in LAMPS {
        sum = add(sum, scale(SODIUM, around(lamp, 0.9, 90. / lamp[2])));
    }
    for side in [-0.62, 0.62] {
        let at = [ONCOMING.0 + side, 0.68, ONCOMING.1];
        sum = add(sum, scale([1., 0.97, 0.9], around(at, 2.2, 7.)));
    }
    sum
}

fn project([x, y, z]: [f32; 3]) -> (f32, f32) {
    (CENTRE.0 + x * FOCAL / z, CENTRE.1 - (y - CAMERA_HEIGHT) * FOCAL / z)
}

// ---- the scene ------------------------------------------------------------------------------

/// The nearest thing behind a place on the sensor.
fn look(scene: &Scene, px: f32, py: f32) -> Point {
    let ray = Ray { right: (px - CENTRE.0) / FOCAL, up: (CENTRE.1 - py) / FOCAL };
    let cars =
        [car_front(&ray, PARKED, false), car_side(&ray, PARKED), car_front(&ray, ONCOMING, true)];
    let things = scene.walkers.iter().map(|who| walker(&ray, who));
    let things = things.chain(TREES.iter().map(|one| tree(&ray, one)));
    let things = things.chain(LAMPS.map(|lamp| lamp_post(&ray, lamp))).chain(cars);
    let things = things.chain([sign(&ray), facade(&ray), ground(&ray)]).flatten();
    let nearest = things.min_by(|a, b| a.at[2].total_cmp(&b.at[2]));
    nearest.unwrap_or_else(|| sky(px, py))
}

struct Ray {
    right: f32,
    up: f32,
}

impl Ray {
    /// Where it meets the upright plane `z` metres ahead.
    fn at(&self, z: f32) -> [f32; 3] {
        [self.right * z, CAMERA_HEIGHT + self.up * z, z]
    }

    /// Where, above the ground, it meets the upright plane along the road at `x`, left of us.
    fn beside(&self, x: f32) -> Option<[f32; 3]> {
        let z = x / self.right;
        let y = CAMERA_HEIGHT + self.up * z;
        (self.right < -1e-3 && y >= 0.).then_some([x, y, z])
    }
}

fn sky(px: f32, py: f32) -> Point {
    let height = ((CENTRE.1 - py) / CENTRE.1).max(0.);
    let glow = (-height * 5.).exp();
    let mut light = add([0.006, 0.009, 0.022], scale([0.040, 0.026, 0.022], glow));
    let cloud = fbm(px * 0.008, py * 0.022, 90);
    light = add(light, scale([0.012, 0.010, 0.012], smooth(0.45, 0.8, cloud) * (0.3 + glow)));
    let mut heat = 0.05 + 0.10 * glow + 0.05 * smooth(0.45, 0.8, cloud);
    if hash(px as u32, py as u32, 91) > 0.9994 && height > 0.2 {
        light = add(light, [0.25, 0.25, 0.28]);
    }
    // The town on the horizon.
    let block = ((px + 900.) / 21.).floor();
    let top = 8. + 30. * hash(block as u32, 0, 92) * (0.35 + hash((block / 3.) as u32, 1, 92));
    if CENTRE.1 - py < top {
        light = [0.010, 0.010, 0.014];
        heat = 0.20 + 0.05 * hash(block as u32, 2, 92);
        let (u, v) = ((px / 4.5).floor() as u32, (py / 5.5).floor() as u32);
        let pane = (px / 4.5).fract() > 0.4 && (py / 5.5).fract() > 0.45;
        if pane && hash(u, v, 93) > 0.66 {
            light = scale([0.30, 0.22, 0.11], 0.4 + hash(u, v, 94));
        }
    }
    Point { at: [0., 0., 1e6], albedo: [0.; 3], glow: light, gloss: 0., heat, flat: false }
}

const KERB: f32 = -5.4;
const EDGE: f32 = 2.2;

fn ground(ray: &Ray) -> Option<Point> {
    if ray.up >= -1e-3 {
        return None;
    }
    let [x, _, z] = ray.at(CAMERA_HEIGHT / -ray.up);
    if z > 160. {
        return None;
    }
    let coarse = fbm(x * 0.9, z * 0.35, 1);
    let fine = fbm(x * 9., z * 6., 2);
    let mut gloss = 1.;
    let (albedo, heat) = if x < KERB {
        let joint = (x * 1.6).rem_euclid(1.) < 0.06 || (z * 1.1).rem_euclid(1.) < 0.05;
        let stone = 0.17 + 0.08 * fine - if joint { 0.10 } else { 0. };
        let face = x > KERB - 0.18;
        (scale([1., 0.97, 0.92], if face { 0.34 } else { stone }), 0.28 + 0.03 * coarse)
    } else if x < EDGE {
        let asphalt = 0.055 + 0.05 * coarse + 0.035 * fine;
        let worn = 0.75 + 0.5 * fine;
        // Tyre tracks are smoother and, after an evening of traffic, a touch warmer.
        let track = (-((x.abs() - 0.75) / 0.28).powi(2)).exp();
        // A repaired trench and the crack that runs into it.
        let patch = (21. ..24.).contains(&(z + 0.6 * x)) && x > -1.4;
        let crack = (x - 0.35 - 0.5 * fbm(z * 0.6, 3., 5)).abs() < 0.012 + 0.008 * fine;
        let dark = if patch { 0.55 } else { 1. } * if crack { 0.35 } else { 1. };
        let mut albedo = scale([1., 1., 1.04], asphalt * dark * (1. - 0.2 * track));
        if mark(x, z) {
            (albedo, gloss) = (scale([1., 0.99, 0.95], 0.5 * worn.min(1.)), 1.7);
        }
        (albedo, 0.31 + 0.035 * coarse + 0.025 * track)
    } else {
        let blade = fbm(x * 14., z * 7., 3);
        let albedo = scale([0.42, 0.75, 0.30], 0.05 + 0.26 * blade * blade);
        (albedo, 0.16 + 0.05 * coarse + 0.03 * blade)
    };
    // Far ground sinks into the haze, and its warmth with it.
    let haze = smooth(40., 160., z);
    let heat = heat * (1. - 0.35 * haze);
    Some(Point { at: [x, 0., z], albedo, glow: [0.; 3], gloss, heat, flat: true })
}

/// Whether a place on the road is painted white.
fn mark(x: f32, z: f32) -> bool {
    let crossing = (14. ..17.).contains(&z) && (KERB + 0.5..EDGE - 0.5).contains(&x);
    if crossing {
        return (x * 0.92).rem_euclid(1.) < 0.5;
    }
    let stop = (12.6..13.).contains(&z) && (-1.6..1.8).contains(&x);
    let middle = (x + 1.75).abs() < 0.075 && z.rem_euclid(6.) < 3. && !(11. ..18.).contains(&z);
    let edges = (x - 1.85).abs() < 0.07 || (x + 5.05).abs() < 0.07;
    stop || middle || edges
}

/// The row of houses on the left, one long wall along the pavement.
fn facade(ray: &Ray) -> Option<Point> {
    let at @ [_, y, z] = ray.beside(-9.5)?;
    let house = (z / 11.).floor() as u32;
    let tall = 3. * (3. + (hash(house, 0, 20) * 3.).floor()) + 0.9;
    if !(5. ..95.).contains(&z) || y > tall {
        return None;
    }
    let hue = hash(house, 1, 20);
    let wall = [0.24 + 0.10 * hue, 0.20 + 0.05 * hue, 0.17];
    let brick = (y * 3.4).rem_euclid(1.) < 0.14
        || (z * 1.5 + 0.5 * (y * 3.4).floor()).rem_euclid(1.) < 0.07;
    let grime = 0.7 + 0.5 * fbm(z * 0.7, y * 0.7, 21);
    let mut point = Point::upright(
        at,
        scale(wall, grime * if brick { 0.72 } else { 1. }),
        0.24 + 0.06 * hash(house, 2, 20) + 0.03 * fbm(z * 0.4, y * 0.4, 22),
    );
    let (u, v) = ((z % 11.) / 2.2, y / 3.);
    let (column, floor) = (u.floor() as u32 + 5 * house, v.floor() as u32);
    let (u, v) = (u.fract(), v.fract());
    if y > tall - 0.5 {
        point.albedo = scale(wall, 1.5);
    } else if floor == 0 && hash(column, 0, 23) > 0.8 {
        // A door, with the warmth of the hall around it.
        if (0.3..0.75).contains(&u) && v < 0.72 {
            point.albedo = [0.06, 0.035, 0.02];
            point.heat += 0.10;
        }
    } else if (0.26..0.74).contains(&u) && (0.30..0.80).contains(&v) {
        let frame = (u - 0.5).abs() < 0.02 || (v - 0.58).abs() < 0.02;
        let lit = hash(column, floor, 24) > 0.62;
        point.albedo = [0.02, 0.022, 0.03];
        if lit && !frame {
            let shade = 0.55 + 0.45 * hash(column, floor, 25);
            let curtain = 0.8 + 0.2 * (u * 60.).sin();
            point.glow = scale([1.0, 0.72, 0.36], 0.62 * shade * curtain);
        }
        point.heat += if lit { 0.09 } else { 0.03 };
        if frame {
            point.albedo = [0.2, 0.2, 0.2];
        }
    } else if (0.24..0.76).contains(&u) && (0.27..0.30).contains(&v) {
        point.albedo = [0.35, 0.33, 0.30];
    } else if (0.24..0.76).contains(&u) && (0.10..0.24).contains(&v) && floor == 0 {
        // The radiator below a ground-floor window shows through the wall.
        point.heat += 0.12;
    }
    Some(point)
}

fn lamp_post(ray: &Ray, [lx, ly, z]: [f32; 3]) -> Option<Point> {
    let at @ [x, y, _] = ray.at(z);
    let foot = lx - 0.9;
    let post = (x - foot).abs() < 0.07 && (0. ..ly + 0.25).contains(&y);
    let arm = (foot..lx).contains(&x) && (y - ly - 0.22).abs() < 0.05;
    let head = (x - lx).abs() < 0.32 && (y - ly - 0.06).abs() < 0.12;
    if head {
        let mut point = Point::upright(at, [0.1; 3], 0.80);
        point.glow = if y < ly + 0.04 { scale(SODIUM, 5.) } else { [0.1, 0.07, 0.04] };
        return Some(point);
    }
    (post || arm).then(|| Point::upright(at, [0.10, 0.11, 0.11], 0.24))
}

fn sign(ray: &Ray) -> Option<Point> {
    let at @ [x, y, _] = ray.at(9.8);
    let (u, v) = (x - 3.0, y - 2.05);
    if (0. ..2.1).contains(&u) && (0. ..1.2).contains(&v) {
        // Metal that mirrors the cold sky: in the infrared one flat, dark board.
        let mut point = Point::upright(at, [0.02, 0.13, 0.42], 0.11);
        let rim = rounded_box(u - 1.05, v - 0.6, 1.05, 0.6, 0.1);
        if rim > 0. {
            return None;
        }
        let line = (-0.075..-0.035).contains(&rim);
        let cell = 0.048;
        let (cx, top) = ((u - 0.20) / cell, (1.2 - v) / cell);
        let inked = |name: &str, first: f32| text::inked(name, cx, top - first);
        if line || inked("CENTRE", 3.6) || inked("PORT 3", 14.2) {
            point.albedo = [0.80, 0.82, 0.85];
        }
        point.gloss = 70.;
        return Some(point);
    }
    let post = [3.35, 4.75].iter().any(|p| (x - p).abs() < 0.05) && (0. ..2.1).contains(&y);
    post.then(|| Point::upright(at, [0.22, 0.22, 0.23], 0.19))
}

struct Tree {
    x: f32,
    z: f32,
    height: f32,
    seed: u32,
}

const TREES: [Tree; 4] = [
    Tree { x: 7.4, z: 15., height: 6.6, seed: 40 },
    Tree { x: 6.6, z: 23., height: 7.4, seed: 41 },
    Tree { x: 7.6, z: 33., height: 8.2, seed: 42 },
    Tree { x: 6.8, z: 47., height: 8., seed: 43 },
];

fn tree(ray: &Ray, tree: &Tree) -> Option<Point> {
    let at @ [x, y, _] = ray.at(tree.z);
    let (u, v) = (x - tree.x, y / tree.height);
    let ragged = 0.75 + 0.75 * fbm(u * 1.6 + 9., y * 1.6, tree.seed);
    let crown = (u / 2.3).powi(2) + ((v - 0.64) / 0.36).powi(2) < ragged * ragged * 0.9;
    let leaf = fbm(u * 7., y * 7., tree.seed + 9);
    let gap = leaf < 0.29 && fbm(u * 2., y * 2., tree.seed + 5) < 0.45;
    if crown && !gap {
        // Leaves catch more light on the side of the lamps.
        let side = (0.8 - 0.25 * u).clamp(0.3, 1.5);
        let albedo = scale([0.28, 0.50, 0.18], side * (0.03 + 0.80 * leaf * leaf));
        return Some(Point::upright(at, albedo, 0.19 + 0.03 * v + 0.03 * leaf));
    }
    let bend = 0.12 * (y * 1.3 + tree.seed as f32).sin();
    let trunk = (u - bend).abs() < 0.20 - 0.02 * y && y >= 0. && v < 0.7;
    let bark = fbm(u * 24., y * 4., tree.seed + 7);
    trunk.then(|| Point::upright(at, scale([0.24, 0.17, 0.11], bark), 0.25))
}

// ---- cars -----------------------------------------------------------------------------------

/// Middle of the parked car's front, right and ahead: dark, but just come home.
const PARKED: (f32, f32) = (-4.25, 11.6);
const CAR_LENGTH: f32 = 4.2;
const PAINT: Colour = [0.030, 0.008, 0.010];

fn car_front(ray: &Ray, (middle, ahead): (f32, f32), lights: bool) -> Option<Point> {
    let at @ [x, y, _] = ray.at(ahead);
    let u = (x - middle).abs();
    let body = rounded_box(u, y - 0.56, 0.88, 0.36, 0.14) < 0.;
    let slope = 0.74 - 0.26 * ((y - 0.9) / 0.55);
    let cabin = (0.88..1.46).contains(&y) && u < slope;
    let tyre = rounded_box(u - 0.72, y - 0.17, 0.13, 0.18, 0.05) < 0.;
    if body {
        let mut p = Point::upright(at, PAINT, 0.50);
        // The engine warms the bonnet from its middle, the radiator most.
        p.heat += 0.36 * (-(u / 0.55).powi(2) - ((y - 0.72) / 0.26).powi(2)).exp();
        if (0.66..0.92).contains(&y) {
            p.albedo = scale(PAINT, 1.7);
        }
        if u < 0.42 && (0.46..0.64).contains(&y) {
            let bar = (y * 24.).rem_euclid(1.) < 0.4;
            (p.albedo, p.heat) = if bar { ([0.18; 3], 0.84) } else { ([0.01; 3], 0.98) };
        }
        if rounded_box(u - 0.64, y - 0.68, 0.15, 0.075, 0.05) < 0. {
            (p.albedo, p.gloss) = ([0.35, 0.36, 0.38], 1.6);
            (p.glow, p.heat) = if lights { ([6., 5.8, 5.3], 0.72) } else { ([0.; 3], 0.46) };
        }
        if u < 0.27 && (0.30..0.41).contains(&y) {
            (p.albedo, p.gloss, p.heat) = ([0.6, 0.6, 0.55], 1.5, 0.40);
        }
        return Some(p);
    }
    if cabin {
        let glass = (0.92..1.36).contains(&y) && u < slope - 0.08;
        let (albedo, heat) = if glass { ([0.02, 0.024, 0.03], 0.22) } else { (PAINT, 0.36) };
        return Some(Point::upright(at, albedo, heat));
    }
    tyre.then(|| Point::upright(at, [0.015; 3], 0.66))
}

/// The side of a car that stands left of us, which we see in perspective behind its front.
fn car_side(ray: &Ray, (middle, front): (f32, f32)) -> Option<Point> {
    let at @ [_, y, z] = ray.beside(middle + 0.88)?;
    let along = z - front;
    if !(0. ..CAR_LENGTH).contains(&along) {
        return None;
    }
    let wheel = [0.78, 3.35].map(|w: f32| ((along - w).powi(2) + (y - 0.31).powi(2)).sqrt());
    let wheel = wheel[0].min(wheel[1]);
    // The bonnet is cooler towards the doors.
    let heat = 0.33 + 0.30 * smooth(1.7, 0., along) * smooth(0.3, 0.8, y);
    let (start, end) = (1.15 + 1.1 * (y - 0.92), CAR_LENGTH - 0.25 - 0.8 * (y - 0.92));
    let (albedo, heat) = if wheel < 0.31 {
        let rim = wheel < 0.19;
        if rim { ([0.20; 3], 0.74) } else { ([0.015; 3], 0.66) }
    } else if (0.24..0.92).contains(&y) {
        let seam = [1.35, 2.5].iter().any(|s| (along - s).abs() < 0.02);
        (if seam { [0.005; 3] } else { PAINT }, heat)
    } else if (0.92..1.46).contains(&y) && (start..end).contains(&along) {
        let glass = y < 1.37 && (start + 0.12..end - 0.15).contains(&along);
        let pillar = (along - 2.5).abs() < 0.05;
        if glass && !pillar { ([0.018, 0.02, 0.026], 0.23) } else { (PAINT, 0.32) }
    } else {
        return None;
    };
    Some(Point::upright(at, albedo, heat))
}

// ---- people ---------------------------------------------------------------------------------

struct Walker {
    x: f32,
    z: f32,
    height: f32,
    /// How far the legs are apart, in metres; its sign is the direction.
    stride: f32,
    coat: Colour,
}

const WALKERS: [Walker; 4] = [
    Walker { x: 0.75, z: 15.4, height: 1.78, stride: -0.30, coat: [0.014, 0.015, 0.02] },
    Walker { x: 2.75, z: 11.4, height: 1.82, stride: 0.10, coat: [0.010, 0.012, 0.012] },
    Walker { x: -7.55, z: 15.4, height: 1.70, stride: 0.26, coat: [0.05, 0.02, 0.02] },
    Walker { x: -8.3, z: 15.9, height: 1.82, stride: 0.24, coat: [0.02, 0.03, 0.05] },
];

fn walker(ray: &Ray, who: &Walker) -> Option<Point> {
    let at = ray.at(who.z);
    // In units of the walker's height, feet at 0.
    let (u, v) = ((at[0] - who.x) / who.height, at[1] / who.height);
    if !(-0.4..0.4).contains(&u) || !(-0.02..1.02).contains(&v) {
        return None;
    }
    let s = who.stride;
    let bone = |a: (f32, f32), b: (f32, f32), ra: f32, rb: f32| capsule((u, v), a, b, ra, rb);
    let both = |part: &dyn Fn(f32) -> f32| part(-1.).min(part(1.));
    let head = bone((0.01 * s.signum(), 0.945), (0., 0.915), 0.055, 0.050);
    let neck = bone((0., 0.88), (0., 0.84), 0.030, 0.035);
    let trunk = bone((0., 0.765), (0., 0.55), 0.092, 0.078);
    let shoulders = bone((-0.06, 0.795), (0.06, 0.795), 0.045, 0.045);
    let hand = |side: f32| (0.10 * side + 0.34 * s * side, 0.50);
    let hands = both(&|side| bone(hand(side), hand(side), 0.026, 0.026));
    let sleeves = both(&|side| {
        let elbow = (0.105 * side + 0.10 * s * side, 0.64);
        let upper = bone((0.098 * side, 0.79), elbow, 0.036, 0.030);
        upper.min(bone(elbow, hand(side), 0.030, 0.024))
    });
    let foot = |side: f32| (0.045 * side + 0.52 * s * side, 0.035);
    let toes = |side| (foot(side).0 + 0.05 * s.signum(), 0.022);
    let shoes = both(&|side| bone(foot(side), toes(side), 0.024, 0.02));
    let trousers = both(&|side| {
        let knee = (0.04 * side + 0.30 * s * side, 0.28);
        let thigh = bone((0.038 * side, 0.53), knee, 0.062, 0.044);
        thigh.min(bone(knee, foot(side), 0.043, 0.028))
    });
    let skin = [0.15, 0.10, 0.075];
    // Folds of the clothes: warmth comes through where they lie close.
    let fold = 0.06 * (fbm(u * 22., v * 22., 60) - 0.5);
    // Hair covers the upper part of the head, and keeps the warmth in.
    let parts = [
        (hands, skin, 0.93),
        (head, if v > 0.955 { [0.03, 0.02, 0.015] } else { skin }, 1.0 - 2.2 * (v - 0.93).max(0.)),
        (neck, skin, 0.97),
        (shoulders.min(trunk), who.coat, 0.80 + fold),
        (sleeves, scale(who.coat, 1.2), 0.74 + fold),
        (trousers, [0.016, 0.017, 0.024], 0.72 + fold),
        (shoes, [0.02; 3], 0.56),
    ];
    let (_, albedo, heat) = parts.into_iter().find(|part| part.0 < 0.)?;
    Some(Point::upright(at, albedo, heat))
}

// ---- shapes, noise, colours -----------------------------------------------------------------

/// Signed distance to a line of which the ends have radii; negative inside.
fn capsule(p: (f32, f32), a: (f32, f32), b: (f32, f32), ra: f32, rb: f32) -> f32 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let (px, py) = (p.0 - a.0, p.1 - a.1);
    let t = ((px * dx + py * dy) / (dx * dx + dy * dy).max(1e-9)).clamp(0., 1.);
    (px - t * dx).hypot(py - t * dy) - (ra + t * (rb - ra))
}

/// Signed distance to a box around 0 with half sizes `w`, `h` and corner radius `r`.
fn rounded_box(x: f32, y: f32, w: f32, h: f32, r: f32) -> f32 {
    let (dx, dy) = (x.abs() - w + r, y.abs() - h + r);
    dx.max(0.).hypot(dy.max(0.)) + dx.max(dy).min(0.) - r
}

/// 0 at `from`, 1 at `to`, smooth between; `from` may be the larger.
fn smooth(from: f32, to: f32, v: f32) -> f32 {
    let t = ((v - from) / (to - from)).clamp(0., 1.);
    t * t * (3. - 2. * t)
}

fn add(a: Colour, b: Colour) -> Colour {
    std::array::from_fn(|c| a[c] + b[c])
}

fn mul(a: Colour, b: Colour) -> Colour {
    std::array::from_fn(|c| a[c] * b[c])
}

fn scale(a: Colour, k: f32) -> Colour {
    a.map(|v| v * k)
}

/// A number in [0, 1) that depends on its arguments only.
fn hash(x: u32, y: u32, seed: u32) -> f32 {
    let mut h =
        x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77) ^ seed.wrapping_mul(0xC2B2_AE3D);
    for k in [0x7FEB_352D, 0x846C_A68B] {
        h = (h ^ (h >> 16)).wrapping_mul(k);
    }
    ((h ^ (h >> 16)) >> 8) as f32 / (1 << 24) as f32
}

/// About normally distributed, standard deviation 1.
fn gaussian(x: u32, y: u32, seed: u32) -> f32 {
    let sum: f32 = (0..4).map(|i| hash(x, y, 1000 + 4 * seed + i)).sum();
    (sum - 2.) * 3f32.sqrt()
}

/// Smooth noise in [0, 1] with features of size 1.
fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (fx, fy) = (x.floor(), y.floor());
    let at = |i: i32, j: i32| hash((fx as i32 + i) as u32, (fy as i32 + j) as u32, seed);
    let (tx, ty) = (smooth(0., 1., x - fx), smooth(0., 1., y - fy));
    let top = at(0, 0) * (1. - tx) + at(1, 0) * tx;
    let bottom = at(0, 1) * (1. - tx) + at(1, 1) * tx;
    top * (1. - ty) + bottom * ty
}

/// Four octaves of [`noise`], in [0, 1].
fn fbm(x: f32, y: f32, seed: u32) -> f32 {
    let octave = |k: u32| {
        let f = 2f32.powi(k as i32);
        noise(x * f, y * f, seed.wrapping_mul(31) + k) / f
    };
    (0..4).map(octave).sum::<f32>() / 1.875
}

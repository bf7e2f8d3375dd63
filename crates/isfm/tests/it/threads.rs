//! One instance, many threads.

use crate::common::{builder, colour_image, grey_image, isfm};
use isfm::{Builder, Error, Isfm, Tiling};

#[test]
fn it_may_be_shared_and_sent() {
    fn shared<T: Send + Sync>() {}
    shared::<Isfm>();
    shared::<Builder>();
    shared::<Error>();
}

#[test]
fn many_threads_get_what_one_gets() {
    for fuser in [isfm(), builder().threads(2).tiling(Tiling::Edge(32)).build().unwrap()] {
        let pairs: Vec<_> =
            (1..5).map(|s| (colour_image(50, 36, s), grey_image(50, 36, s + 9))).collect();
        let want: Vec<_> = pairs.iter().map(|(v, i)| fuser.fuse(v, i).unwrap()).collect();
        std::thread::scope(|scope| {
            for t in 0..6 {
                let (fuser, pairs, want) = (&fuser, &pairs, &want);
                scope.spawn(move || {
                    for k in 0..pairs.len() {
                        let at = (k + t) % pairs.len();
                        let got = fuser.fuse(&pairs[at].0, &pairs[at].1).unwrap();
                        assert_eq!(got, want[at], "thread {t}, pair {at}");
                    }
                });
            }
        });
    }
}

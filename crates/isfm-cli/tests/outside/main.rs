//! What needs pictures or a browser that are no part of the project. The standard harness swallows
//! what a passing test prints; this prints which were skipped, and why.

mod browser;
#[path = "../it/common.rs"]
mod common;
mod pairs;
mod weights;

/// Or why a test was skipped.
type Outcome = Result<(), String>;
type Test = fn() -> Outcome;

fn main() {
    let tests: [(&str, Test); 7] = [
        ("the_page_works_in_a_browser", browser::the_page_works_in_a_browser),
        ("tiles_do_not_show_on_real_pairs", pairs::tiles_do_not_show_on_real_pairs),
        (
            "raw_thermal_frames_fuse_like_rendered_ones",
            pairs::raw_thermal_frames_fuse_like_rendered_ones,
        ),
        (
            "every_picture_fused_with_itself_comes_back",
            pairs::every_picture_fused_with_itself_comes_back,
        ),
        ("medical_backgrounds_stay_black", pairs::medical_backgrounds_stay_black),
        ("reported_weights_are_read_or_named", weights::reported_weights_are_read_or_named),
        ("roadscene_is_as_others_measured_it", pairs::roadscene_is_as_others_measured_it),
    ];
    println!("\nrunning {} tests", tests.len());
    let mut skipped = 0;
    for (name, test) in tests {
        // A failure is a panic, which ends the program with its message.
        match test() {
            Ok(()) => println!("test {name} ... ok"),
            Err(why) => {
                skipped += 1;
                println!("test {name} ... skipped: {why}");
            }
        }
    }
    let passed = tests.len() - skipped;
    println!("\ntest result: ok. {passed} passed; 0 failed; {skipped} skipped\n");
}

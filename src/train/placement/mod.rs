//! Where the numbers act, measured before any of them is trained (design, "Placement before training").
//!
//! | file | one idea |
//! |---|---|
//! | `scout` | the gradient at v = 0, measured on sampled answers |
//! | `mean_gradient` | its mean, its variance, its signal-to-noise ratio |
//! | `modules` | the roles and layers that hold most of it |
//! | `seed_search` | the projection that captures most of theirs |

pub mod mean_gradient;
pub mod modules;
pub mod scout;
pub mod seed_search;

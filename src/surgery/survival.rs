//! How much of an update is left after rounding it into the weights.

use crate::format::ModuleId;

/// The part of one module's update that rounding left.
///
/// With D = W' − W, the change that was really made, the surviving fraction is
/// ⟨D, ΔW⟩ / ⟨ΔW, ΔW⟩: 1 if the merged weights carry the whole update, 0 if none of it.
/// Rounding errors may take it a little above 1. Both products are summed in f64 without fused
/// multiply-add, each row from +0 in increasing column, then the rows from +0 in increasing row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModuleSurvival {
    /// The module.
    pub module: ModuleId,
    /// ⟨W' − W, ΔW⟩.
    pub kept: f64,
    /// ⟨ΔW, ΔW⟩.
    pub wanted: f64,
}

impl ModuleSurvival {
    /// The surviving fraction; 1 for an update whose squared norm is 0.
    pub fn fraction(&self) -> f64 {
        fraction(self.kept, self.wanted)
    }
}

/// The part of a whole adapter that rounding left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survival {
    /// Every selected module, sorted.
    pub modules: Vec<ModuleSurvival>,
}

impl Survival {
    /// The fraction over all modules together: the products of the modules are summed in
    /// order before they are divided, so large updates weigh more.
    pub fn fraction(&self) -> f64 {
        let sum = |part: fn(&ModuleSurvival) -> f64| {
            self.modules.iter().map(part).fold(0.0, |total, x| total + x)
        };
        fraction(sum(|m| m.kept), sum(|m| m.wanted))
    }

    /// Whether there was no update to merge.
    pub fn is_of_nothing(&self) -> bool {
        self.modules.iter().all(|module| module.wanted == 0.0)
    }

    /// Whether less than half of the update is left.
    pub fn lost_most(&self) -> bool {
        self.fraction() < 0.5
    }
}

fn fraction(kept: f64, wanted: f64) -> f64 {
    if wanted == 0.0 { 1.0 } else { kept / wanted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Role;

    fn survival(parts: &[(f64, f64)]) -> Survival {
        let module = ModuleId { layer: 0, role: Role::Q };
        let modules = parts.iter().map(|&(kept, wanted)| ModuleSurvival { module, kept, wanted });
        Survival { modules: modules.collect() }
    }

    #[test]
    fn no_update_survives_whole() {
        assert_eq!(survival(&[(0.0, 0.0)]).fraction(), 1.0);
        assert!(survival(&[(0.0, 0.0)]).is_of_nothing());
        assert!(!survival(&[(0.0, 0.0), (0.0, 1e-300)]).is_of_nothing());
        assert_eq!(survival(&[]).fraction(), 1.0);
        assert!(!survival(&[]).lost_most());
    }

    #[test]
    fn large_updates_weigh_more_in_the_total() {
        let two = survival(&[(0.0, 1.0), (9.0, 9.0)]);
        assert_eq!(two.fraction(), 0.9);
        assert_eq!(two.modules[0].fraction(), 0.0);
        assert!(!two.lost_most());
        assert!(survival(&[(0.49, 1.0)]).lost_most());
        assert!(!survival(&[(0.5, 1.0)]).lost_most());
    }
}

//! The sets of modules a header can name: every subset of the roles over every contiguous range of
//! layers, and how much of the gradient each holds.

use super::mean_gradient::MeanGradient;
use crate::format::Role;

/// The head's bit; it has no layer and is in a set or not.
pub(super) const HEAD: u16 = 1 << Role::LmHead as u16;

/// A candidate.
pub(super) struct Set {
    pub roles: u16,
    pub first: u16,
    pub last: u16,
    pub modules: usize,
    pub energy: f64,
}

impl Set {
    /// What decides between equal scores, smallest first.
    pub fn rank(&self) -> (usize, u16, u16) {
        (self.modules, self.first, self.roles)
    }
}

/// Noise-subtracted energies by layer and role.
pub(super) struct Table {
    pub first: u16,
    pub last: u16,
    /// By layer − first, then role bit; `None` where the model has no such module.
    layers: Vec<[Option<f64>; 8]>,
    head: Option<f64>,
    roles: u16,
    pub energy: f64,
    pub noise: f64,
    pub signal: f64,
}

impl Table {
    pub fn new(gradient: &MeanGradient) -> Self {
        let in_layers = || gradient.modules().iter().filter(|m| m.role != Role::LmHead);
        let first = in_layers().map(|m| m.layer).min().unwrap_or(0);
        let last = in_layers().map(|m| m.layer).max().unwrap_or(0);
        let layers = vec![[None; 8]; usize::from(last - first) + 1];
        let mut table = Self {
            first,
            last,
            layers,
            head: None,
            roles: 0,
            energy: 0.0,
            noise: 0.0,
            signal: 0.0,
        };
        for (index, module) in gradient.modules().iter().enumerate() {
            let (energy, noise) = (gradient.energy(index), gradient.noise(index));
            table.energy += energy;
            table.noise += noise;
            table.roles |= 1 << module.role as u16;
            let own = Some(energy - noise);
            match module.role {
                Role::LmHead => table.head = own,
                role => table.layers[usize::from(module.layer - first)][role as usize] = own,
            }
        }
        table.signal = table.energy - table.noise;
        table
    }

    /// Visits every valid set once. Sums run over layers, then roles, so that a module without
    /// energy changes no bit of a sum and ties are ties.
    pub fn each_set(&self, mut visit: impl FnMut(Set)) {
        if let Some(head) = self.head {
            let energy = head.max(0.0);
            visit(Set { roles: HEAD, first: self.first, last: self.last, modules: 1, energy });
        }
        for from in 0..self.layers.len() {
            let mut range = Range { sums: [(0.0, 0); 8], present: Vec::new() };
            for to in from..self.layers.len() {
                range.add(&self.layers[to]);
                let at = |offset: usize| self.first + offset as u16;
                self.each_subset(&range, at(from), at(to), &mut visit);
            }
        }
    }

    fn each_subset(&self, range: &Range, first: u16, last: u16, visit: &mut impl FnMut(Set)) {
        for roles in (1..=self.roles).filter(|roles| roles & !self.roles == 0) {
            let linear = roles & !HEAD;
            let of = |bit: &usize| linear & (1 << bit) != 0;
            let role_missing = (0..8).filter(of).any(|bit| range.sums[bit].1 == 0);
            let layer_missing = range.present.iter().any(|present| present & linear == 0);
            if linear == 0 || role_missing || layer_missing {
                continue;
            }
            let add = |(energy, n), bit: usize| {
                let (more, modules) = range.sums[bit];
                (energy + more, n + modules)
            };
            let (mut energy, mut modules) = (0..8).filter(of).fold((0.0, 0), add);
            if let (Some(head), true) = (self.head, roles & HEAD != 0) {
                (energy, modules) = (energy + head, modules + 1);
            }
            visit(Set { roles, first, last, modules, energy: f64::max(energy, 0.0) });
        }
    }
}

/// A growing range of layers.
struct Range {
    /// By role: the energy so far, and the modules.
    sums: [(f64, usize); 8],
    /// The different sets of roles its layers have.
    present: Vec<u16>,
}

impl Range {
    fn add(&mut self, layer: &[Option<f64>; 8]) {
        let mut present = 0;
        for (bit, (sum, own)) in self.sums.iter_mut().zip(layer).enumerate() {
            if let Some(own) = own {
                *sum = (sum.0 + own, sum.1 + 1);
                present |= 1 << bit;
            }
        }
        if !self.present.contains(&present) {
            self.present.push(present);
        }
    }
}

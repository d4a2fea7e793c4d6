use std::os::raw::c_char;

extern "C" {
    fn probe(name: *const c_char);
}

mod garden {
    pub trait Grow {
        fn grow(&self) -> usize;
    }
    pub struct Bed<T>(pub Vec<T>);
    impl<T> Grow for Bed<T> {
        #[inline(never)]
        fn grow(&self) -> usize {
            unsafe { super::probe(b"trait\0".as_ptr() as *const _) }; // @trait
            std::hint::black_box(self.0.len())
        }
    }
    #[inline(always)]
    pub fn water(amount: usize) -> usize {
        unsafe { super::probe(b"water\0".as_ptr() as *const _) }; // @water
        std::hint::black_box(amount) + 1
    }
}

#[inline(never)]
fn season(amount: usize) -> usize {
    garden::water(amount) // @season
}

fn main() {
    use garden::Grow;
    let bed = garden::Bed(vec![1u8, 2, 3]);
    std::process::exit((season(bed.grow()) == 0) as i32);
}

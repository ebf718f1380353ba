//! Counting system calls: a filter that a thread puts on itself turns each into a signal.

use nix::libc;

/// What counts: the signal's number, what the kernel says of it, and where the thread was.
pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Has system calls that a filter keeps back counted.
pub fn handle(handler: Handler) {
    // SAFETY: zeros are a sigaction; the handler does only what is allowed in one, which is its author's to see to.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = handler as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// From now on this thread's system calls are kept back, but for one, the end of a signal handler, and that of the process.
/// Returns whether that could be done. Allowed in a signal handler.
pub fn filter_this_thread(but: i64) -> bool {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jt| libc::sock_filter { code, jt, jf: 0, k };
    let mut program = [
        step(LOAD, 0, 0), // the number comes first in seccomp_data
        step(EQUAL, but as u32, 3),
        step(EQUAL, libc::SYS_rt_sigreturn as u32, 2),
        step(EQUAL, libc::SYS_exit_group as u32, 1),
        step(RETURN, libc::SECCOMP_RET_TRAP, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: two system calls; the program outlives the second.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}

/// In the handler: the call's answer is EAGAIN.
pub fn answer_again(context: *mut libc::c_void) {
    // SAFETY: the kernel's own structure, of a SIGSYS, which the handler is installed for alone.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = -i64::from(libc::EAGAIN);
}

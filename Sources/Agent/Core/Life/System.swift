// SPDX-License-Identifier: Apache-2.0
// System: every system call of the agent, and nothing else.
//
// No system call is made on the path of a hook. When they are made:
//   start           openat, fstat, read, readlinkat, mkdirat, fchmod, prlimit64, getpid, getuid,
//                   geteuid, clock_gettime, ftruncate, mmap, madvise, fcntl, close, unlinkat; write
//                   only with ALLOCS_VERBOSE, getppid only with ALLOCS_RECORDER; after exec
//                   pread64; prctl, and openat2 where no filter decides on system calls, for names
//                   that others may have put there
//     one start in 32, which looks for old segments of ended processes (Sweep.swift):
//                   prctl, mmap, getdents64, tgkill with signal 0, statx or newfstatat, openat2 or
//                   openat, fstat, fcntl, pread64, unlinkat, close, munmap
//     for the executable's symbol table:
//                   openat, pread64 and close; lseek, mmap and munmap if it has one
//     where a module has an allocator of its own:
//                   mmap and mprotect for code, openat, pread64, pwrite64 and close for each
//                   jump; once more for the dynamic linker
//     for libc's table of symbols:
//                   mprotect, twice; twice more for words that already lead to it
//   a module that is opened, if it has an allocator
//                   as where a module has one at the start, and mincore; munmap when it goes
//   growth          madvise (commit pages of the segment; huge pages for private tables, or
//                   none), mremap (map the next arena), mmap and munmap (private tables), futex;
//                   mincore, for a suballocation that is in no chunk
//   events, while they are on
//                   madvise and mremap (memory of rings), futex (waiting for a lossless
//                   consumer); clock_gettime where the kernel's clock is not one that the vdso
//                   can read
//   a new thread    gettid, prctl, tgkill with signal 0, mmap and madvise once for every 16
//                   threads
//     where libc's description of a thread is not understood:
//                   openat, read and close of /proc/self/maps
//     where ended threads may be known by nothing else:
//                   tgkill with signal 0, twice
//   a thread's end  prctl
//   a call of mmap, of a file
//                   fstat, readlinkat
//   a module without a build id or an absolute path
//                   readlinkat, newfstatat, clock_gettime; at the start, newfstatat once
//   fork            none without ALLOCS_FOLLOW. With it, before: membarrier, futex, openat,
//                   prlimit64, ftruncate, pwrite64, mmap, clock_gettime, gettid; after: close,
//                   munmap, futex; in the child: openat, read, mmap, madvise, prlimit64,
//                   ftruncate, linkat, fcntl, close, munmap, prctl, get*id
//   a capture on an unknown stack
//                   sigaltstack; madvise (whether a page can be read)
//
// A call returns the kernel's result: a negative number is a negated error number. errno is never
// touched.

import AgentMachine
import SharedLayout

typealias Address = UnsafeMutableRawPointer

@inline(__always)
private func call(
  _ number: Int, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0, _ e: Int = 0, _ f: Int = 0
) -> Int {
  allocs_system_call(number, a, b, c, d, e, f)
}

enum System {
  static let noEntry = -2
  static let exists = -17
  static let tooManyDescriptors = -24
  private static let currentDirectory = -100  // AT_FDCWD

  struct OpenFlags {
    static let readOnly = 0o0
    static let readWrite = 0o2
    static let create = 0o100
    static let exclusive = 0o200
    static let nonBlocking = 0o4000
    #if arch(arm64)
      static let directory = 0o40000
      static let noFollow = 0o100000
    #else
      static let directory = 0o200000
      static let noFollow = 0o400000
    #endif
    static let closeOnExec = 0o2000000
  }

  // MARK: files

  static func open(_ path: UnsafePointer<CChar>, _ flags: Int, mode: Int = 0) -> Int {
    open(in: currentDirectory, path, flags, mode: mode)
  }
  static func open(in directory: Int, _ path: UnsafePointer<CChar>, _ flags: Int, mode: Int = 0) -> Int {
    call(Int(ALLOCS_SYS_OPENAT), directory, Int(bitPattern: path), flags | OpenFlags.closeOnExec, mode)
  }
  /// Opens a name in a directory in which another user may have put it: on the directory's own file
  /// system, and through no link. A user may have mounted a file system of their own making (FUSE)
  /// over a file of theirs, which answers when it likes: it is not asked. Where the kernel knows no
  /// such call, or a filter may not, what is mounted there is opened.
  static func openWithin(_ directory: Int, _ name: UnsafePointer<CChar>, _ flags: Int) -> Int {
    if !isFiltered {
      // struct open_how of <linux/openat2.h>; RESOLVE_NO_XDEV, …MAGICLINKS, …SYMLINKS, …BENEATH.
      var how: (flags: UInt64, mode: UInt64, resolve: UInt64) = (
        UInt64(flags | OpenFlags.noFollow | OpenFlags.closeOnExec), 0, 0x01 | 0x02 | 0x04 | 0x08
      )
      let size = MemoryLayout.size(ofValue: how)
      let result = withUnsafeMutablePointer(to: &how) {
        call(Int(ALLOCS_SYS_OPENAT2), directory, Int(bitPattern: name), Int(bitPattern: $0), size)
      }
      if !isUnknownCall(result) { return result }
    }
    return open(in: directory, name, flags | OpenFlags.noFollow)
  }
  /// Whether a call failed because the kernel does not know it, or a filter or a security module.
  private static func isUnknownCall(_ result: Int) -> Bool {
    let (notImplemented, notPermitted) = (-38, -1)
    return result == notImplemented || result == notPermitted
  }
  static func close(_ descriptor: Int) { _ = call(Int(ALLOCS_SYS_CLOSE), descriptor) }
  static func read(_ descriptor: Int, _ buffer: UnsafeMutablePointer<UInt8>, _ count: Int) -> Int {
    call(Int(ALLOCS_SYS_READ), descriptor, Int(bitPattern: buffer), count)
  }
  static func read(_ descriptor: Int, _ buffer: UnsafeMutablePointer<UInt8>, _ count: Int, at offset: UInt64) -> Int {
    call(Int(ALLOCS_SYS_PREAD64), descriptor, Int(bitPattern: buffer), count, Int(offset))
  }
  /// The file's size in bytes; negative if it is not known.
  static func size(of descriptor: Int) -> Int {
    let fromEnd = 2
    return call(Int(ALLOCS_SYS_LSEEK), descriptor, 0, fromEnd)
  }
  static func write(_ descriptor: Int, _ buffer: UnsafePointer<UInt8>, _ count: Int) -> Int {
    call(Int(ALLOCS_SYS_WRITE), descriptor, Int(bitPattern: buffer), count)
  }
  static func readLink(_ path: UnsafePointer<CChar>, _ buffer: UnsafeMutablePointer<UInt8>, _ count: Int) -> Int {
    call(
      Int(ALLOCS_SYS_READLINKAT), currentDirectory, Int(bitPattern: path), Int(bitPattern: buffer), count)
  }
  static func makeDirectory(in directory: Int, _ path: UnsafePointer<CChar>, mode: Int) -> Int {
    call(Int(ALLOCS_SYS_MKDIRAT), directory, Int(bitPattern: path), mode)
  }
  static func changeMode(_ descriptor: Int, _ mode: Int) -> Int {
    call(Int(ALLOCS_SYS_FCHMOD), descriptor, mode)
  }
  static func unlink(in directory: Int, _ path: UnsafePointer<CChar>) -> Int {
    call(Int(ALLOCS_SYS_UNLINKAT), directory, Int(bitPattern: path), 0)
  }
  /// Makes a file without a name in an open directory; its descriptor, or a negated error number.
  static func openUnnamed(in directory: Int, mode: Int) -> Int {
    let here: StaticString = "."
    let unnamed = 0o20000000 | OpenFlags.directory
    return open(
      in: directory, UnsafeRawPointer(here.utf8Start).assumingMemoryBound(to: CChar.self),
      OpenFlags.readWrite | unnamed, mode: mode)
  }
  /// Gives a file a name in an open directory. `path` is a link of the kernel's that leads to the
  /// file.
  static func link(_ path: UnsafePointer<CChar>, in directory: Int, _ name: UnsafePointer<CChar>) -> Int {
    let follow = 0x400
    return call(
      Int(ALLOCS_SYS_LINKAT), currentDirectory, Int(bitPattern: path), directory, Int(bitPattern: name), follow)
  }
  /// Writes all of the bytes; their number, or a negated error number. Bytes that cannot be read
  /// cause an error, not a signal.
  static func writeAll(_ descriptor: Int, _ bytes: Address, _ count: Int, at offset: UInt64) -> Int {
    var done = 0
    while done < count {
      let written = call(
        Int(ALLOCS_SYS_PWRITE64), descriptor, Int(bitPattern: bytes + done), count - done, Int(offset) + done)
      let interrupted = -4
      if written == interrupted { continue }
      let noSpace = -28
      guard written > 0 else { return written < 0 ? written : noSpace }
      done += written
    }
    return count
  }
  static func truncate(_ descriptor: Int, _ size: UInt64) -> Int {
    call(Int(ALLOCS_SYS_FTRUNCATE), descriptor, Int(size))
  }

  // MARK: locks and states of files

  /// The fields of `struct flock` (fcntl(2)).
  private struct Lock {
    var type: Int16 = 1  // F_WRLCK
    var whence: Int16 = 0
    var start: Int64 = 0
    var length: Int64 = 1
    var owner: Int32 = 0
  }
  /// Locks the file's first byte for as long as this opening of the file, or a mapping made by it,
  /// lasts. False if that can't be done.
  static func lock(_ descriptor: Int) -> Bool {
    let setLockOfOpening = 37  // F_OFD_SETLK
    var lock = Lock()
    return withUnsafeMutablePointer(to: &lock) {
      call(Int(ALLOCS_SYS_FCNTL), descriptor, setLockOfOpening, Int(bitPattern: $0)) >= 0
    }
  }
  /// Whether somebody holds the lock that `lock` takes; nil if the kernel doesn't say.
  static func isLocked(_ descriptor: Int) -> Bool? {
    let getLockOfOpening = 36  // F_OFD_GETLK
    let unlocked: Int16 = 2
    var lock = Lock()
    let result = withUnsafeMutablePointer(to: &lock) {
      call(Int(ALLOCS_SYS_FCNTL), descriptor, getLockOfOpening, Int(bitPattern: $0))
    }
    return result < 0 ? nil : lock.type != unlocked
  }

  /// Fields of stat(2).
  struct FileStatus {
    var inode: UInt64
    var mode: UInt32
    var userID: UInt32
    /// Nanoseconds since 1970. The time at which the file's size was last set, for segments.
    var modified: UInt64
    /// Bytes of memory or disk.
    var allocated: UInt64

    var isRegular: Bool { mode & 0o170000 == 0o100000 }

    fileprivate init(_ words: UnsafeMutablePointer<UInt64>) {
      inode = words[1]
      #if arch(arm64)
        (mode, userID) = (UInt32(truncatingIfNeeded: words[2]), UInt32(truncatingIfNeeded: words[3]))
      #else
        (mode, userID) = (UInt32(truncatingIfNeeded: words[3]), UInt32(truncatingIfNeeded: words[3] >> 32))
      #endif
      // From st_blocks on, the fields have equal offsets on both machines.
      allocated = words[8] &* 512
      modified = words[11] &* 1_000_000_000 &+ words[12]
    }

    /// Of struct statx; nil if it is of something that is mounted there.
    fileprivate init?(statx words: UnsafeMutablePointer<UInt64>) {
      let isRootOfMount: UInt64 = 0x2000  // STATX_ATTR_MOUNT_ROOT (Linux 5.8)
      guard words[1] & isRootOfMount == 0 else { return nil }
      userID = UInt32(truncatingIfNeeded: words[2] >> 32)
      mode = UInt32(words[3] >> 32 & 0xFFFF)
      inode = words[4]
      allocated = words[6] &* 512
      modified = words[14] &* 1_000_000_000 &+ (words[15] & 0xFFFF_FFFF)
    }
  }
  static func status(of descriptor: Int) -> FileStatus? {
    withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 32) { buffer in
      guard let words = buffer.baseAddress,
        call(Int(ALLOCS_SYS_FSTAT), descriptor, Int(bitPattern: words)) >= 0
      else { return nil }
      return FileStatus(words)
    }
  }
  /// Of a name in a directory in which another user may have put it: a symbolic link is not
  /// followed, and a file system that is mounted there is not asked (`openWithin`). Where no filter
  /// decides on system calls.
  static func status(in directory: Int, _ name: UnsafePointer<CChar>) -> FileStatus? {
    withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 32) { buffer in
      guard let words = buffer.baseAddress else { return nil }
      let flags = 0x100 | 0x800 | 0x4000  // AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT, AT_STATX_DONT_SYNC
      let basicStatus = 0x7FF
      let result = call(
        Int(ALLOCS_SYS_STATX), directory, Int(bitPattern: name), flags, basicStatus, Int(bitPattern: words))
      if !isUnknownCall(result) { return result < 0 ? nil : FileStatus(statx: words) }
      let noFollow = 0x100
      let old = call(
        Int(ALLOCS_SYS_NEWFSTATAT), directory, Int(bitPattern: name), Int(bitPattern: words), noFollow)
      return old < 0 ? nil : FileStatus(words)
    }
  }
  /// Reads the next entries of an open directory (getdents64(2)); their size in bytes, 0 at its
  /// end.
  static func entries(_ directory: Int, _ buffer: Address, _ size: Int) -> Int {
    call(Int(ALLOCS_SYS_GETDENTS64), directory, Int(bitPattern: buffer), size)
  }

  /// The numbers that tell an open file from other files, and one state of the file from the next;
  /// nil if the descriptor is not open.
  static func identity(of descriptor: Int32) -> allocs_mapped_file? {
    withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 32) { buffer in
      guard let words = buffer.baseAddress, call(Int(ALLOCS_SYS_FSTAT), Int(descriptor), Int(bitPattern: words)) >= 0
      else { return nil }
      // st_dev, st_ino and st_ctim have equal offsets on both machines.
      return allocs_mapped_file(
        device: words[0], inode: words[1], seconds: words[13], nanoseconds: words[14], path: 0, path_size: 0)
    }
  }

  /// Notes the numbers that tell the file at `path` from other files, and one state of the file
  /// from the next. Notes nothing if there is no file.
  static func identify(_ path: UnsafePointer<CChar>, _ file: inout allocs_module_file) {
    withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 32) { buffer in
      guard let words = buffer.baseAddress,
        call(Int(ALLOCS_SYS_NEWFSTATAT), currentDirectory, Int(bitPattern: path), Int(bitPattern: words)) >= 0
      else { return }
      // st_dev, st_ino, st_size and st_mtim have equal offsets on both machines.
      file.device = words[0]
      file.inode = words[1]
      file.size = words[6]
      file.mtime_seconds = words[11]
      file.mtime_nanoseconds = UInt32(truncatingIfNeeded: words[12])
    }
  }

  // MARK: memory

  private static let readWriteAccess = 3
  private static let shared = 0x01
  private static let privateAnonymous = 0x22
  private static let noReserve = 0x4000
  private static let fixed = 0x10

  /// Maps private zeroed memory, which is committed as it is touched; nil if there is none.
  static func map(_ size: UInt64) -> Address? {
    address(call(Int(ALLOCS_SYS_MMAP), 0, Int(size), readWriteAccess, privateAnonymous | noReserve, -1, 0))
  }
  /// Maps private zeroed memory that begins at a multiple of its size, a power of two, and asks for
  /// huge pages there. Where there is no room to choose from, as below a limit on address space,
  /// the memory begins anywhere; nil if there is none.
  static func mapHuge(_ size: UInt64) -> Address? {
    guard let room = map(2 * size) else { return map(size) }
    let before = (0 &- UInt64(UInt(bitPattern: room))) & (size - 1)
    let start = room + Int(before)
    if before > 0 { unmap(room, before) }
    unmap(start + Int(size), size - before)
    let hugePages = 14
    _ = advise(start, size, hugePages)
    return start
  }
  /// Maps private zeroed memory that has no huge pages, also where the kernel gives them unasked;
  /// nil if there is none.
  static func mapSmall(_ size: UInt64) -> Address? {
    guard let start = map(size) else { return nil }
    let noHugePages = 15
    _ = advise(start, size, noHugePages)
    return start
  }
  /// Maps the file's bytes from `offset`, shared, at `start` if that is free, else anywhere; nil if
  /// they cannot be mapped.
  static func map(_ descriptor: Int, at offset: UInt64, _ size: UInt64, preferring start: UInt = 0) -> Address? {
    address(
      call(
        Int(ALLOCS_SYS_MMAP), Int(bitPattern: start), Int(size), readWriteAccess, shared | noReserve, descriptor,
        Int(offset)))
  }
  /// Maps the file's bytes from `offset`, privately and to be read only; nil if they cannot be
  /// mapped.
  static func mapPrivately(_ descriptor: Int, at offset: UInt64, _ size: UInt64) -> Address? {
    let (readAccess, privately) = (1, 2)
    return address(call(Int(ALLOCS_SYS_MMAP), 0, Int(size), readAccess, privately, descriptor, Int(offset)))
  }
  /// Maps the file's bytes from `offset`, shared, exactly at `start`. False if something else is
  /// mapped there.
  static func map(_ descriptor: Int, at offset: UInt64, _ size: UInt64, onto start: Address) -> Bool {
    let fixedNoReplace = 0x100000
    return address(
      call(
        Int(ALLOCS_SYS_MMAP), Int(bitPattern: start), Int(size), readWriteAccess,
        shared | noReserve | fixedNoReplace, descriptor, Int(offset))) == start
  }
  /// Maps zeroed memory that children share with their parent.
  static func mapShared(_ size: UInt64) -> Address? {
    let anonymous = 0x20
    return address(call(Int(ALLOCS_SYS_MMAP), 0, Int(size), readWriteAccess, shared | anonymous, -1, 0))
  }
  /// Replaces a mapping by private zeroed memory.
  static func mapOver(_ start: Address, _ size: UInt64) {
    _ = call(
      Int(ALLOCS_SYS_MMAP), Int(bitPattern: start), Int(size), readWriteAccess,
      privateAnonymous | noReserve | fixed, -1, 0)
  }
  /// Replaces a mapping by the file's first bytes, shared.
  static func map(_ descriptor: Int, over start: Address, _ size: UInt64) -> Bool {
    call(
      Int(ALLOCS_SYS_MMAP), Int(bitPattern: start), Int(size), readWriteAccess, shared | fixed, descriptor, 0) >= 0
  }
  enum Access: Int {
    case readWrite = 3
    case execute = 5  // and read
  }
  /// Maps private zeroed memory exactly at `start`; nil if something else is mapped there.
  static func map(at start: UInt64, _ size: UInt64, _ access: Access = .readWrite) -> Address? {
    let fixedNoReplace = 0x100000
    guard
      let mapped = address(
        call(
          Int(ALLOCS_SYS_MMAP), Int(start), Int(size), access.rawValue, privateAnonymous | fixedNoReplace, -1, 0))
    else { return nil }
    return mapped
  }
  /// Changes the protection of pages. `flags`: PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4.
  static func protect(_ start: UInt64, _ size: UInt64, flags: Int) -> Bool {
    call(Int(ALLOCS_SYS_MPROTECT), Int(start), Int(size), flags) >= 0
  }
  static func unmap(_ start: Address, _ size: UInt64) {
    _ = call(Int(ALLOCS_SYS_MUNMAP), Int(bitPattern: start), Int(size))
  }
  /// Lets a shared mapping grow over the bytes of the file that follow. The mapping moves if it
  /// must.
  static func grow(_ start: Address, from oldSize: UInt64, to newSize: UInt64) -> Address? {
    let mayMove = 1
    return address(call(Int(ALLOCS_SYS_MREMAP), Int(bitPattern: start), Int(oldSize), Int(newSize), mayMove))
  }
  private static func advise(_ start: Address, _ size: UInt64, _ advice: Int) -> Int {
    call(Int(ALLOCS_SYS_MADVISE), Int(bitPattern: start), Int(size), advice)
  }
  /// Keeps a mapping from children of fork, and leaves it out of core dumps.
  static func keepFromChildren(_ start: Address, _ size: UInt64) -> Bool {
    let dontFork = 10
    let dontDump = 16
    _ = advise(start, size, dontDump)
    return advise(start, size, dontFork) >= 0
  }
  /// Lets children of fork find zeros in a mapping.
  static func wipeInChildren(_ start: Address, _ size: UInt64) -> Bool {
    let wipeOnFork = 18
    return advise(start, size, wipeOnFork) >= 0
  }
  /// Backs pages of a shared mapping with memory (Linux 5.14). False, and no signal, where the file
  /// system is full.
  static func commit(_ start: Address, _ size: UInt64) -> Bool {
    let populateWrite = 23
    return advise(start, size, populateWrite) >= 0
  }
  /// Whether pages can be read. Backs them with memory as reading them would.
  static func canRead(_ start: UInt64, _ size: UInt64) -> Bool {
    let populateRead = 22
    return call(Int(ALLOCS_SYS_MADVISE), Int(truncatingIfNeeded: start), Int(size), populateRead) >= 0
  }
  /// Whether anything is mapped at `address`.
  static func isMapped(_ address: UInt) -> Bool {
    let pageSize: UInt = 4096
    var resident: UInt8 = 0
    return withUnsafeMutablePointer(to: &resident) {
      call(Int(ALLOCS_SYS_MINCORE), Int(bitPattern: address & ~(pageSize - 1)), 1, Int(bitPattern: $0)) >= 0
    }
  }
  private static func address(_ result: Int) -> Address? {
    result < 0 && result > -4096 ? nil : Address(bitPattern: result)
  }

  // MARK: the process

  static var processID: UInt32 { UInt32(truncatingIfNeeded: call(Int(ALLOCS_SYS_GETPID))) }
  static var parentID: UInt32 { UInt32(truncatingIfNeeded: call(Int(ALLOCS_SYS_GETPPID))) }
  static var threadID: UInt32 { UInt32(truncatingIfNeeded: call(Int(ALLOCS_SYS_GETTID))) }
  static var userID: UInt32 { UInt32(truncatingIfNeeded: call(Int(ALLOCS_SYS_GETUID))) }
  /// The user that owns the files that the process makes.
  static var effectiveUserID: UInt32 { UInt32(truncatingIfNeeded: call(Int(ALLOCS_SYS_GETEUID))) }

  /// Whether the kernel has ended thread `tid` of process `pid`.
  static func hasEnded(_ tid: UInt32, of pid: UInt32) -> Bool {
    let noSuchProcess = -3
    return call(Int(ALLOCS_SYS_TGKILL), Int(pid), Int(tid), 0) == noSuchProcess
  }
  /// Whether a filter decides which system calls the process may make: what it forbids may end the
  /// process.
  static var isFiltered: Bool {
    let getSeccomp = 21
    return call(Int(ALLOCS_SYS_PRCTL), getSeccomp) != 0
  }
  /// Writes the calling thread's name to 16 bytes, zero terminated.
  static func threadName(_ name: Address) {
    let getName = 16
    _ = call(Int(ALLOCS_SYS_PRCTL), getName, Int(bitPattern: name))
  }

  /// Where a thread has its alternate signal stack, and whether the thread is on it.
  struct AlternateStack {
    var low: UInt64 = 0
    /// One past the highest address; 0 if the thread has no such stack. It has none in a handler on
    /// a stack that was set with SS_AUTODISARM.
    var high: UInt64 = 0
    var isInUse = false

    func holds(_ sp: UInt64) -> Bool { isInUse && sp >= low && sp < high }
  }
  /// The calling thread's alternate stack.
  static var alternateStack: AlternateStack {
    var stack: (start: UInt64, flags: UInt64, size: UInt64) = (0, 0, 0)
    let result = withUnsafeMutablePointer(to: &stack) {
      call(Int(ALLOCS_SYS_SIGALTSTACK), 0, Int(bitPattern: $0))
    }
    let (isOnStack, isDisabled): (UInt64, UInt64) = (1, 2)
    guard result >= 0, stack.flags & isDisabled == 0 else { return AlternateStack() }
    return AlternateStack(
      low: stack.start, high: stack.start &+ stack.size, isInUse: stack.flags & isOnStack != 0)
  }

  enum Limit: Int {
    case fileSize = 1
    case stack = 3
    case addressSpace = 9
  }
  /// The soft limit in bytes, UInt64.max if there is none.
  static func limit(_ limit: Limit) -> UInt64 {
    var values: (soft: UInt64, hard: UInt64) = (.max, .max)
    let result = withUnsafeMutablePointer(to: &values) {
      call(Int(ALLOCS_SYS_PRLIMIT64), 0, limit.rawValue, 0, Int(bitPattern: $0))
    }
    return result < 0 ? .max : values.soft
  }

  enum Clock: Int {
    case realtime = 0
    case monotonic = 1
    case monotonicCoarse = 6
  }
  static func nanoseconds(_ clock: Clock) -> UInt64 {
    var time: (seconds: Int, nanoseconds: Int) = (0, 0)
    _ = withUnsafeMutablePointer(to: &time) {
      call(Int(ALLOCS_SYS_CLOCK_GETTIME), clock.rawValue, Int(bitPattern: $0))
    }
    return UInt64(time.seconds) &* 1_000_000_000 &+ UInt64(time.nanoseconds)
  }

  // MARK: waiting

  static func wait(on word: UnsafeMutablePointer<UInt32>, while value: UInt32) {
    let waitPrivate = 128
    _ = call(Int(ALLOCS_SYS_FUTEX), Int(bitPattern: word), waitPrivate, Int(value), 0)
  }
  /// Waits on a word that another process shares, for `nanoseconds` at most.
  static func waitShared(on word: UnsafeMutablePointer<UInt32>, while value: UInt32, nanoseconds: UInt64) {
    var time: (seconds: Int, nanoseconds: Int) = (
      Int(nanoseconds / 1_000_000_000), Int(nanoseconds % 1_000_000_000)
    )
    let wait = 0
    withUnsafeMutablePointer(to: &time) {
      _ = call(Int(ALLOCS_SYS_FUTEX), Int(bitPattern: word), wait, Int(value), Int(bitPattern: $0))
    }
  }
  /// Waits on a word of this process, for `nanoseconds` at most.
  static func wait(on word: UnsafeMutablePointer<UInt32>, while value: UInt32, nanoseconds: Int) {
    let waitPrivate = 128
    var time = (seconds: 0, nanoseconds: nanoseconds)
    _ = withUnsafeMutablePointer(to: &time) {
      call(Int(ALLOCS_SYS_FUTEX), Int(bitPattern: word), waitPrivate, Int(value), Int(bitPattern: $0))
    }
  }
  static func sleep(nanoseconds: Int) {
    var never: UInt32 = 0
    withUnsafeMutablePointer(to: &never) { wait(on: $0, while: 0, nanoseconds: nanoseconds) }
  }
  /// Whether the word can be read and holds this value. The kernel reads it, because the memory may
  /// be gone.
  static func holds(_ word: UnsafeMutablePointer<UInt32>, _ value: UInt32) -> Bool {
    // Of the system calls that compare a word, only this call can be told to do nothing else.
    let compareAndRequeuePrivate = 4 | 128
    return call(
      Int(ALLOCS_SYS_FUTEX), Int(bitPattern: word), compareAndRequeuePrivate, 0, 0, Int(bitPattern: word), Int(value))
      == 0
  }
  static func wakeAll(_ word: UnsafeMutablePointer<UInt32>) {
    let wakePrivate = 129
    _ = call(Int(ALLOCS_SYS_FUTEX), Int(bitPattern: word), wakePrivate, Int(Int32.max))
  }
  /// Makes every other thread of the process see what this thread stored before. False if the
  /// kernel cannot do that.
  static func synchronizeThreads() -> Bool {
    let expedited = 1 << 3
    let register = 1 << 4
    if call(Int(ALLOCS_SYS_MEMBARRIER), expedited) >= 0 { return true }
    return call(Int(ALLOCS_SYS_MEMBARRIER), register) >= 0 && call(Int(ALLOCS_SYS_MEMBARRIER), expedited) >= 0
  }
  static func wakeOne(_ word: UnsafeMutablePointer<UInt32>) {
    let wakePrivate = 129
    _ = call(Int(ALLOCS_SYS_FUTEX), Int(bitPattern: word), wakePrivate, 1)
  }
}

// MARK: the lock of the slow paths

/// Runs `body` while no other thread runs a body under this lock. A thread never takes the lock
/// twice: a hook that interrupts the holder finds `self` null and passes through.
@inline(__always)
func locked<Result>(_ shared: UnsafeMutablePointer<allocs_shared>, _ body: () -> Result) -> Result {
  let word = withUnsafeMutablePointer(to: &shared.pointee.lock) { $0 }
  allocs_set_holds_lock(true)
  if !allocs_compare_exchange_u32(word, 0, 1) {
    while allocs_exchange_u32(word, 2) != 0 { System.wait(on: word, while: 2) }
  }
  let result = body()
  if allocs_exchange_u32(word, 0) == 2 { System.wakeOne(word) }
  allocs_set_holds_lock(false)
  return result
}

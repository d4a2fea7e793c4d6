// Bytes taken for an ELF file.

import Glibc
import Symbols

enum SymbolsFuzz {
  private static let path = "/dev/shm/symbols-\(getpid()).fuzz"

  static func run(_ bytes: ArraySlice<UInt8>) {
    let descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard descriptor >= 0 else { return }
    bytes.withUnsafeBytes { _ = write(descriptor, $0.baseAddress, $0.count) }
    close(descriptor)
    defer { unlink(path) }
    // A symbolizer keeps what it found: each file needs a new one.
    let symbolizer = Symbolizer(debugRoots: [])
    let bias: UInt64 = 0x7000_0000_0000
    // Proved, whatever is in it: as the very file, or, should it have a build id, by that.
    var status = stat()
    guard stat(path, &status) == 0 else { return }
    let module = ModuleReference(
      path: path, buildID: [], start: bias, end: bias + 0x10_0000, bias: bias, file: FileState(status))
    for offset in stride(from: UInt64(0x10), to: 0x5000, by: 0x171) {
      _ = symbolizer.frames(returnAddress: bias + offset, in: module)
      _ = symbolizer.staticSymbol(at: bias + offset, in: module)
    }
  }
}

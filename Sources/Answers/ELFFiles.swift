// Modules that the segment doesn't list (none of their code has allocated), found by the file that is mapped: where an
// ELF file's program headers say that it lies. Format: System V gABI, chapter 5; 64-bit little-endian files only.

import ByteText
import Glibc
import Symbols
import Synchronization

/// Reads the program headers of mapped files, and remembers them.
final class ELFFiles: Sendable {
  private struct Key: Hashable {
    var device: Mapping.Device
    var inode: UInt64
  }

  /// Where a file's loaded segments lie, in ELF addresses.
  struct Layout: Hashable {
    /// ELF address of the file's first byte.
    var first: UInt64
    /// One past the highest ELF address, zeroed data included.
    var end: UInt64
    /// Where notes are in the file, the build id among them.
    var notes: [Range<UInt64>] = []
    var buildID: [UInt8] = []
  }

  private struct Found: Sendable {
    var layout: Layout
    var state: FileState
  }

  /// nil: the file is no ELF file.
  private let known = Mutex<[Key: Found?]>([:])
  /// Files are forgotten all at once beyond this many: more than any process maps in earnest.
  private static let limit = 4096

  /// The module that `file` maps, if it is one and holds `address`. `start`: seconds since 1970-01-01 UTC at which the
  /// process started; a file without a build id that was changed since proves nothing. `id`: of a thread that lives,
  /// under which /proc has the files.
  func module(
    of file: Mapping, at address: UInt64, in maps: ProcessMaps, of process: ModuleReference.Process,
    readableAs id: Int32, since start: Double
  ) -> ModuleReference? {
    guard let path = file.path, let found = found(file, path, id) else { return nil }
    // The mapping of the file's first byte that is nearest below: the same file may be mapped twice.
    guard
      let first = maps.mappings.last(where: {
        $0.inode == file.inode && $0.device == file.device && $0.offset == 0 && $0.start <= file.start
      }), first.start >= found.layout.first
    else { return nil }
    let bias = first.start - found.layout.first
    let (end, overflow) = found.layout.end.addingReportingOverflow(bias)
    guard !overflow, address < end else { return nil }
    return ModuleReference(
      path: path, buildID: found.layout.buildID, start: first.start, end: end, bias: bias,
      file: Double(found.state.seconds) < start ? found.state : nil, isDeleted: file.isDeleted, process: process)
  }

  private func found(_ file: Mapping, _ path: String, _ processID: Int32) -> Found? {
    let key = Key(device: file.device, inode: file.inode)
    if let found = known.withLock({ $0[key] }) { return found }
    let found = Self.read(file, path, processID)
    known.withLock { known in
      if known.count >= Self.limit { known.removeAll() }
      known[key] = .some(found)
    }
    return found
  }

  /// What is in the file that process `processID` has mapped as `file`, if that is an ELF file.
  private static func read(_ file: Mapping, _ path: String, _ processID: Int32) -> Found? {
    let bounds = "\(String(file.start, radix: 16))-\(String(file.end, radix: 16))"
    // The kernel's own link needs no proof; it is followed for root only. By paths, the process's root comes first, as
    // in a container the path means another file than here; there the inode must tell.
    var places = ["/proc/\(processID)/map_files/\(bounds)"]
    if !file.isDeleted { places += ["/proc/\(processID)/root\(path)", path] }
    for (index, place) in places.enumerated() {
      // Not blocking: a path may by now be that of a pipe.
      let descriptor = open(place.originalPath, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
      guard descriptor >= 0 else { continue }
      defer { close(descriptor) }
      var status = stat()
      guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG,
        index == 0 || UInt64(status.st_ino) == file.inode
      else { continue }
      return read(descriptor).map { Found(layout: $0, state: FileState(status)) }
    }
    return nil
  }

  private static func read(_ descriptor: Int32) -> Layout? {
    func bytes(at offset: UInt64, _ size: Int) -> [UInt8] {
      [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
        count = max(0, pread(descriptor, buffer.baseAddress!, size, off_t(truncatingIfNeeded: offset)))
      }
    }
    // The program headers follow the ELF header in all files that linkers write.
    guard var layout = layout(ofHeader: bytes(at: 0, 8192)) else { return nil }
    for notes in layout.notes where layout.buildID.isEmpty {
      layout.buildID = buildID(inNotes: bytes(at: notes.lowerBound, Int(notes.upperBound - notes.lowerBound)))
    }
    return layout
  }

  /// The GNU build id among notes; empty if there is none.
  static func buildID(inNotes bytes: [UInt8]) -> [UInt8] {
    var offset = 0
    while let nameSize = number(bytes, offset, 4), let size = number(bytes, offset + 4, 4),
      let type = number(bytes, offset + 8, 4), nameSize <= 256, size <= 4096
    {
      let name = offset + 12
      // Names and contents are padded to 4 bytes.
      let content = name + (Int(nameSize) + 3) / 4 * 4
      guard content + Int(size) <= bytes.count else { return [] }
      if type == 3, bytes[name..<name + Int(nameSize)].elementsEqual("GNU\0".utf8) {  // NT_GNU_BUILD_ID
        return Array(bytes[content..<content + Int(size)])
      }
      offset = content + (Int(size) + 3) / 4 * 4
    }
    return []
  }

  private static func number(_ bytes: [UInt8], _ offset: Int, _ size: Int) -> UInt64? {
    guard offset >= 0, offset <= bytes.count - size else { return nil }
    return (0..<size).reversed().reduce(0) { $0 << 8 | UInt64(bytes[offset + $1]) }
  }

  /// The layout that the start of an ELF file describes.
  static func layout(ofHeader bytes: [UInt8]) -> Layout? {
    func number(_ offset: Int, _ size: Int) -> UInt64? { Self.number(bytes, offset, size) }
    // ELFCLASS64, ELFDATA2LSB.
    guard bytes.starts(with: [0x7F, 0x45, 0x4C, 0x46, 2, 1]) else { return nil }
    // ET_EXEC or ET_DYN; e_phoff, e_phentsize, e_phnum.
    guard let type = number(16, 2), type == 2 || type == 3, let table = number(32, 8), table < 8192,
      let entrySize = number(54, 2), entrySize >= 56, let entries = number(56, 2)
    else { return nil }
    var layout: Layout?
    var notes: [Range<UInt64>] = []
    for index in 0..<Int(entries) {
      let entry = Int(table) + index * Int(entrySize)
      guard let kind = number(entry, 4), let offset = number(entry + 8, 8), let address = number(entry + 16, 8),
        let size = number(entry + 40, 8)
      else { return nil }
      if kind == 4, let noteSize = number(entry + 32, 8), noteSize <= 1 << 16, offset < 1 << 40 {  // PT_NOTE
        notes.append(offset..<offset + noteSize)
      }
      guard kind == 1 else { continue }  // PT_LOAD
      let (end, overflow) = address.addingReportingOverflow(size)
      guard !overflow else { return nil }
      if var known = layout {
        known.end = max(known.end, end)
        layout = known
      } else if offset < 4096, address >= offset {
        layout = Layout(first: address - offset, end: end)
      } else {
        return nil
      }
    }
    layout?.notes = notes
    return layout
  }
}

// SPDX-License-Identifier: Apache-2.0
// Modules that the segment doesn't list (none of their code has allocated), found by the file that is mapped: where an
// ELF file's program headers say that it lies.

import Bounds
import ByteText
import FileFacts
import Symbols
import Synchronization

/// Reads the program headers of mapped files, and remembers them.
final class ELFFiles: Sendable {
  private struct Key: Hashable {
    var device: Mapping.Device
    var inode: UInt64
    /// Whether the process executes the file.
    var isExecuted: Bool
  }

  private struct Found: Sendable {
    /// What its loaded segments take, in ELF addresses.
    var addresses: Range<UInt64>
    var buildID: [UInt8]
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
    guard let path = file.path, let found = found(file, path, id, in: maps) else { return nil }
    // The mapping of the file's first byte that is nearest below: the same file may be mapped twice.
    guard let place = maps.index(containing: file.start) else { return nil }
    var first: Mapping?
    var meter = BudgetMeter()
    for mapping in maps.mappings[...place].reversed() {
      guard meter.goesOn() else { return nil }
      guard mapping.inode == file.inode, mapping.device == file.device, mapping.offset == 0 else { continue }
      first = mapping
      break
    }
    guard let first, first.start >= found.addresses.lowerBound else { return nil }
    let bias = first.start &- found.addresses.lowerBound
    let (end, overflow) = found.addresses.upperBound.addingReportingOverflow(bias)
    guard !overflow, address < end else { return nil }
    return ModuleReference(
      path: path, buildID: found.buildID, start: first.start, end: end, bias: bias,
      file: Double(found.state.seconds) < start ? found.state : nil, isDeleted: file.isDeleted, process: process)
  }

  private func found(_ file: Mapping, _ path: ForeignText, _ processID: Int32, in maps: ProcessMaps) -> Found? {
    let isExecuted = maps.executes(file)
    let key = Key(device: file.device, inode: file.inode, isExecuted: isExecuted)
    if let found = known.withLock({ $0[key] }) { return found }
    let found = Self.read(file, path, processID, isExecuted: isExecuted)
    // What was not read to its end is for this question alone, which ends.
    if Budget.current?.isExhausted == true { return found }
    known.withLock { known in
      if known.count >= Self.limit { known.removeAll() }
      known[key] = .some(found)
    }
    return found
  }

  /// What is in the file that process `processID` has mapped as `file`, if that is an ELF file. One that it has mapped
  /// as data alone may be anybody's, and is taken apart only if it is trusted.
  private static func read(
    _ file: Mapping, _ path: ForeignText, _ processID: Int32, isExecuted: Bool
  ) -> Found? {
    let bounds = "\(String(file.start, radix: 16))-\(String(file.end, radix: 16))"
    // The kernel's own link needs no proof; it is followed for root only. By paths, the process's root comes first, as
    // in a container the path means another file than here; there the inode must tell.
    var places: [ForeignText] = ["/proc/\(processID)/map_files/\(bounds)"]
    if !file.isDeleted { places += ["/proc/\(processID)/root\(path)", path] }
    for (index, place) in places.enumerated() {
      guard let opened = try? RegularFile(path: place) else { continue }
      guard index == 0 || opened.state.inode == file.inode, isExecuted || opened.isTrusted else { continue }
      let elf = ELFFile(ELFBytes(descriptor: opened.descriptor))
      guard let elf, let addresses = elf.loadedAddresses else { return nil }
      let found = Found(addresses: addresses, buildID: elf.buildID, state: opened.state)
      return withExtendedLifetime(opened) { found }
    }
    return nil
  }
}

// SPDX-License-Identifier: Apache-2.0
// Which parts of a segment's file hold data: reading a hole of a tmpfs file through a mapping
// allocates the page, so a reader that believed a summary of nothing but holes would fill the file
// system.

/// The last answers of the kernel about one arena. A hole stays one for the search that met it: at
/// that moment nothing started there.
struct DataRun {
  /// Where the arena's slots lie in the file; nil before the first question.
  private var origin: Int?
  /// Bytes from the first slot on of which some page held data, and bytes of which none did.
  private var data = 0..<0
  private var hole = 0..<0

  /// Whether the file holds anything of the slots of `region` in `range`, bytes from the first slot
  /// on. One system call where that has not been asked.
  ///
  /// Where data ends is not asked for: the kernel would walk to the end of it, and so over whole
  /// arenas for each piece.
  mutating func holdsData(in range: Range<Int>, of region: SlotRegion) -> Bool {
    if data.contains(range.lowerBound) { return true }
    if hole.contains(range.lowerBound), range.upperBound <= hole.upperBound { return false }
    let windows = region.windows
    if origin == nil { origin = windows._withUnsafeGuaranteedRef { $0.fileOffset(of: UnsafeRawPointer(region.slots)) } }
    // Memory in no window is no file's.
    guard let origin else { return true }
    let found = windows._withUnsafeGuaranteedRef { $0.data(from: origin &+ range.lowerBound) }
    let next = found.map { $0 &- origin } ?? .max
    hole = range.lowerBound..<max(range.lowerBound, next)
    guard next < range.upperBound else { return false }
    data = range
    return true
  }
}

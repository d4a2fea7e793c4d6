// SPDX-License-Identifier: Apache-2.0
// Which parts of a segment's file hold data: reading a hole of a tmpfs file through a mapping
// allocates the page, so a reader that believed a summary of nothing but holes would fill the file
// system.

/// The last answers of the kernel about one arena. A hole stays one for the search that met it: at
/// that moment nothing started there.
struct DataRun {
  /// Bytes of the file in which some page held data, and bytes in which none did.
  private var data = 0..<0
  private var hole = 0..<0

  /// Whether the file holds anything in `range`. One system call where that has not been asked.
  ///
  /// Where data ends is not asked for: the kernel would walk to the end of it, and so over whole
  /// arenas for each piece.
  mutating func holdsData(in range: Range<Int>, _ windows: FileWindows) -> Bool {
    if data.contains(range.lowerBound) { return true }
    if hole.contains(range.lowerBound), range.upperBound <= hole.upperBound { return false }
    let next = windows.data(from: range.lowerBound) ?? .max
    hole = range.lowerBound..<max(range.lowerBound, next)
    guard next < range.upperBound else { return false }
    data = range
    return true
  }
}

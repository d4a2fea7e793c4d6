// What the index says of a module, enough to find its file again and to be sure that it is the same one.

/// A loaded executable or shared object.
public struct ModuleReference: Hashable, Sendable {
  /// Absolute path of the file that was mapped. Anything that isn't an absolute path, such as the name of the vdso, has
  /// no file.
  public var path: String
  /// The GNU build id, empty if the module has none.
  public var buildID: [UInt8]
  /// Lowest mapped address.
  public var start: UInt64
  /// One past the highest mapped address.
  public var end: UInt64
  /// What is added to an address in the ELF file to get the mapped one.
  public var bias: UInt64

  public init(path: String, buildID: [UInt8], start: UInt64, end: UInt64, bias: UInt64) {
    self.path = path
    self.buildID = buildID
    self.start = start
    self.end = end
    self.bias = bias
  }
}

/// What a mount of an image allows of what an image may hold and a directory of the host should not have. Whoever made the image decides
/// what is in it: a program that becomes root for whoever starts it, a device file of the host's disk that everybody may read.
public struct MountRights: Sendable, Equatable, Codable {
    /// Whether set-user-ID and set-group-ID programs, and those with file capabilities, gain what they say.
    public var setUserID: Bool
    /// Whether device files open devices.
    public var devices: Bool

    public init(setUserID: Bool = false, devices: Bool = false) {
        (self.setUserID, self.devices) = (setUserID, devices)
    }
}

/// What a mount of an image allows of the things that an image may hold and a directory of the host should not. The author of the image
/// decides what is in it: a program that runs as root for any user, a device file of the host's disk that any user may read.
public struct MountRights: Sendable, Equatable, Codable {
    /// Whether set-user-ID and set-group-ID programs, and those with file capabilities, gain what they say.
    public var setUserID: Bool
    /// Whether device files open devices.
    public var devices: Bool

    public init(setUserID: Bool = false, devices: Bool = false) {
        (self.setUserID, self.devices) = (setUserID, devices)
    }
}

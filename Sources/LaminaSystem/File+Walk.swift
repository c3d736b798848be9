import CLinux
public import Glibc

/// A link on the way to a directory that belongs to another user, who decides where it leads.
public struct ForeignLink: Error, Sendable, Equatable {
    /// Where the link is; absolute.
    public var path: String
    public var owner: uid_t

    public init(path: String, owner: uid_t) { (self.path, self.owner) = (path, owner) }
}

extension File {
    /// Opens a directory by its absolute path, one name after the other, each in the one before: whatever is renamed meanwhile, what is
    /// opened was reached by the links that were looked at, and by no other.
    ///
    /// Links that belong to root or to this user are followed; 40 at most, as the kernel does (MAXSYMLINKS).
    ///
    /// - Throws: `ForeignLink`, or `SystemError` as open(2) would.
    public static func walk(toDirectory path: String) throws -> File {
        var place = try File("/", lamina_o_path | O_DIRECTORY)
        var rest = Array(path.split(separator: "/").reversed())
        var links = 0
        while let name = rest.popLast() {
            if name == "." { continue }
            let next = try File(String(name), lamina_o_path | O_NOFOLLOW, in: place)
            let status = try next.status()
            guard status.st_mode & S_IFMT == S_IFLNK else {
                place = next
                continue
            }
            let linkPath = (linkTarget(of: "/proc/self/fd/\(place.descriptor)") ?? "") + "/\(name)"
            guard status.st_uid == 0 || status.st_uid == geteuid() else {
                throw ForeignLink(path: linkPath.replacing("//", with: "/"), owner: status.st_uid)
            }
            links += 1
            guard links <= 40 else { throw SystemError(code: ELOOP, operation: "open", subject: path) }
            let target = try next.linkTargetOfDescriptor()
            if target.hasPrefix("/") { place = try File("/", lamina_o_path | O_DIRECTORY) }
            rest += target.split(separator: "/").reversed()
        }
        do {
            return try File(".", O_RDONLY | O_DIRECTORY, in: place).named(path)
        } catch {
            throw SystemError(code: error.code, operation: error.operation, subject: path)
        }
    }

    /// Where an open link leads (readlinkat(2) with an empty name).
    private func linkTargetOfDescriptor() throws(SystemError) -> String {
        var target = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlinkat(descriptor, "", &target, target.count)
        guard count > 0 else { throw SystemError.last("read the link", path) }
        return String(decoding: target.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// The same file under another name for errors.
    private func named(_ path: String) throws(SystemError) -> File {
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw SystemError.last("open", path) }
        return File(adopting: copy, path: path)
    }
}

/// Users and groups by name.
public enum Account {
    /// `bob (1000)`, or the number alone where nobody has it.
    public static func describe(user: uid_t) -> String {
        guard let entry = getpwuid(user) else { return "\(user)" }
        return "\(String(cString: entry.pointee.pw_name)) (\(user))"
    }

    /// The number of a group, by its name or as a number; nil where there is none of that name.
    public static func group(named name: String) -> gid_t? {
        if let number = gid_t(name) { return number }
        return getgrnam(name).map { $0.pointee.gr_gid }
    }
}

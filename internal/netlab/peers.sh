#!/bin/bash
# Fetches the programs that the tests talk to and that bench/ compares with, as Debian
# packages, into DIR/.cache/peers: downloaded and unpacked, never installed, with
# package lists of their own. Nothing outside .cache changes. Runs as root or as an
# ordinary user; quick when all is there.
#
#   usage: peers.sh [DIR]      DIR is the root of the checkout, by default this one's
set -euo pipefail

packages=(
	iputils-ping iputils-arping curl wget netcat-openbsd socat openssl
	nginx-light dnsmasq-base radvd tcpdump tshark wireshark-common iproute2 nftables
	passt slirp4netns
	busybox-static python3 nodejs git openssh-client openssh-server bind9-dnsutils
	iperf3 wrk apache2-utils strace rsync redis-server redis-tools memcached
	haproxy unbound chrony vsftpd
)
# What has to run in the end, by its name inside the packages.
programs=(
	ping arping curl wget nc.openbsd socat openssl
	nginx dnsmasq radvd tcpdump tshark ip ss tc nft
	pasta slirp4netns
	busybox python3 node git ssh ssh-keygen sftp sshd dig
	iperf3 wrk ab strace rsync redis-server redis-cli memcached
	haproxy unbound chronyd vsftpd
)
# A virtual machine, where the archive has a kernel for one: qemu-system-x86_64, and in guest/ vmlinuz,
# these modules with all that they need, and "modules", their names in the order to load them. The
# packages of the machine depend on much more than that takes.
machine=(qemu-system-x86 qemu-system-common qemu-system-data seabios)
kernel=linux-image-cloud-amd64
modules=(virtio_pci virtio_net)
# What some of them find by an absolute path otherwise; $d is the folder of the peers.
declare -A environment=(
	[qemu-system-x86_64]='QEMU_MODULE_DIR="$d/qemu"'
	[git]='GIT_EXEC_PATH="$d/root/usr/lib/git-core" GIT_TEMPLATE_DIR="$d/root/usr/share/git-core/templates" GIT_CONFIG_NOSYSTEM=1'
	[python3]='PYTHONHOME="$d/root/usr" PYTHONDONTWRITEBYTECODE=1'
)
declare -A arguments=(
	[qemu-system-x86_64]='-L "$d/root/usr/share/qemu" -L "$d/root/usr/share/seabios"'
)
declare -A prepare=(
	[node]='exec 9<"$d/root/usr/share/nodejs"'
)
# The C library has to be the machine's own: the program loader belongs to it.
own='^(libc6|libc-bin|libgcc-s1|gcc-[0-9]+-base|libcrypt1)$'

top=$(cd "${1:-$(dirname "$0")/../..}" && pwd)
cache=$top/.cache
peers=$cache/peers

complete() {
	[[ -f $peers/stamp && $(<"$peers/stamp") == "$stamp" ]] || return 1
	local p
	for p in "${programs[@]}"; do
		[[ -x $peers/bin/$p ]] || return 1
	done
}

if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
	echo "peers: needs apt-get and dpkg: the tests with real peers run on Debian and its relatives" >&2
	exit 1
fi
. /etc/os-release
stamp="${ID:-} ${VERSION_ID:-} $(uname -m) $(cksum <"${BASH_SOURCE[0]}")"
complete && exit 0

mkdir -p "$cache"
exec 9>"$cache/peers.lock"
flock 9
complete && exit 0 # another run has made it meanwhile

rm -rf "$cache"/peers.new.* # of a run that was interrupted
new=$(mktemp -d "$cache/peers.new.XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 1' INT TERM HUP
chmod 755 "$new"
mkdir -p "$new"/apt/{lists/partial,cache/archives/partial,debs} "$new"/{root,bin}
: >"$new/apt/status"

# The machine's sources and proxies, but none of its hooks.
{
	apt-config dump | grep '^Acquire::' | grep -v '^Acquire::IndexTargets' || true
	cat <<-CONF
		Dir::Etc::main "/dev/null";
		Dir::Etc::parts "/dev/null/none";
		Dir::State "$new/apt";
		Dir::State::lists "$new/apt/lists";
		Dir::State::status "$new/apt/status";
		Dir::Cache "$new/apt/cache";
		Acquire::Languages "none";
		Acquire::Retries "3";
		APT::Sandbox::User "root";
		APT::Install-Recommends "false";
	CONF
} >"$new/apt/apt.conf"
export APT_CONFIG=$new/apt/apt.conf

echo "peers: fetching ${packages[*]}" >&2
# One source of the machine that does not answer is no obstacle if another has it.
apt-get -qq update >"$new/apt/update.log" 2>&1 || true
# Of a package as of now: what it depends on by names that begin so.
depends() { apt-cache depends "$1" 2>/dev/null | awk -v name="^$2" '$1 == "Depends:" && $2 ~ name {print $2}'; }
image=$(depends "$kernel" linux-image-)
if [[ -n $image && -n $(depends "${machine[0]}" lib) ]]; then
	packages+=($(depends "${machine[0]}" lib))
	programs+=(qemu-system-x86_64)
else
	echo "peers: no virtual machines: the archive lacks ${machine[0]} or $kernel" >&2
	machine=() image=
fi
if ! apt-get -s install "${packages[@]}" >"$new/apt/plan" 2>&1; then
	cat "$new/apt/update.log" "$new/apt/plan" >&2
	echo "peers: cannot find the packages; is the Debian archive within reach?" >&2
	exit 1
fi
# Of the dependencies only the libraries are wanted, and what a wanted name stands for.
names=$(awk '$1 == "Inst" {print $2}' "$new/apt/plan" | grep -Ev "$own" |
	grep -E "^(lib|nginx|python3|node-|bind9-|lua-|$(IFS='|'; echo "${packages[*]}")\$)" | sort -u)
(cd "$new/apt/debs" && apt-get -qq download $names "${machine[@]}" $image) >"$new/apt/download.log" 2>&1 || {
	cat "$new/apt/download.log" >&2
	echo "peers: download incomplete; run it again" >&2
	exit 1
}
for deb in "$new"/apt/debs/*.deb; do
	dpkg -x "$deb" "$new/root"
	rm "$deb"
done
# Debian's node reads parts of itself from a fixed folder; its wrapper opens ours as 9.
for lib in "$new"/root/usr/lib/*/libnode.so.*; do
	[[ -f $lib ]] && sed -i 's|/usr/share/nodejs/|/proc/self/fd///9/|g' "$lib"
done
if [[ -n $image ]]; then
	mkdir -p "$new/guest" "$new/qemu"
	mv "$new"/root/boot/vmlinuz-* "$new/guest/vmlinuz"
	: >"$new/guest/modules"
	module() { # and first what it depends on; what is not there is built in
		local m file to=$new/guest/$1.ko
		[[ ! -f $to ]] || return 0
		file=$(find "$new/root" -name "$1.ko*" -o -name "${1//_/-}.ko*")
		case $file in
		'') return 0 ;;
		*.xz) xz -dc "$file" >"$to" ;;
		*) cp "$file" "$to" ;;
		esac
		for m in $(tr '\0' '\n' <"$to" | sed -n 's/^depends=//p' | tr , ' '); do
			module "$m"
		done
		echo "$1" >>"$new/guest/modules"
	}
	for m in "${modules[@]}"; do
		module "$m"
	done
	find "$new/root" -name accel-tcg-x86_64.so -exec mv -t "$new/qemu" {} +
	rm -rf "$new"/root/{boot,lib/modules,usr/lib/modules,usr/lib/qemu,usr/lib/*/qemu} \
		"$new"/root/usr/bin/{qemu-pr-helper,qemu-storage-daemon,qemu-system-x86_64-microvm} "$new"/root/usr/libexec/qemu-*
fi
rm -rf "$new"/root/usr/share/{doc,man,locale,info,vim,zsh,lintian}

# Private library folders first in a path relative to the wrapper, so that the
# checkout can be moved.
libs=
while read -r d; do
	libs+=${libs:+:}'$d/root/'$d
done < <(cd "$new/root" && find -L . \( -name '*.so' -o -name '*.so.*' \) -type f -printf '%h\n' 2>/dev/null |
	sed 's|^\./||' | sort -u | grep -E '^(usr/)?lib(/[^/]*-linux-[^/]*)?$')
for p in "${programs[@]}"; do
	path=
	for dir in usr/bin bin usr/sbin sbin; do
		[[ -x $new/root/$dir/$p ]] && path=$dir/$p && break
	done
	if [[ -z $path ]]; then
		echo "peers: no package brought $p" >&2
		exit 1
	fi
	cat >"$new/bin/$p" <<-WRAP
		#!/bin/sh
		d=\${0%/*}/..
		${prepare[$p]:-}
		${environment[$p]:+${environment[$p]} }LD_LIBRARY_PATH="$libs" exec "\$d/root/$path" ${arguments[$p]:-} "\$@"
	WRAP
	chmod 755 "$new/bin/$p"
	if d=$new && LD_LIBRARY_PATH=${libs//\$d/$d} ldd "$new/root/$path" 2>/dev/null | grep 'not found' >&2; then
		echo "peers: $p lacks the libraries above" >&2
		exit 1
	fi
done
if ! "$new/bin/node" -e 'fetch' || ! "$new/bin/python3" -c 'import ssl'; then
	echo "peers: node or python3 does not find its own files" >&2
	exit 1
fi
if [[ -n $image ]] && ! printf '{"execute":"qmp_capabilities"}{"execute":"quit"}' |
	"$new/bin/qemu-system-x86_64" -accel tcg -M none -display none -qmp stdio >/dev/null; then
	echo "peers: qemu-system-x86_64 does not start" >&2
	exit 1
fi
rm -rf "$new/apt"
printf '%s\n' "$stamp" >"$new/stamp"
rm -rf "$peers"
mv "$new" "$peers"
trap - EXIT
echo "peers: $(du -sh "$peers" | cut -f1) in $peers" >&2

#!/bin/sh
# Remove LesionSeg. Studies, models and settings are kept.
set -eu
target=$(cd "$(dirname "$0")" && pwd)
prefix=$(cd "$target/../.." && pwd)

if [ "$target" != "$prefix/lib/lesionseg" ]; then
    echo "Run uninstall.sh in the folder where LesionSeg was installed, such as ~/.local/lib/lesionseg." >&2
    exit 1
fi
rm -f "$prefix/share/applications/lesionseg.desktop" "$prefix/share/icons/hicolor/scalable/apps/lesionseg.svg"
if [ "$(readlink "$prefix/bin/lesionseg" || true)" = "$target/lesionseg" ]; then
    rm -f "$prefix/bin/lesionseg"
fi
if command -v update-desktop-database >/dev/null; then
    update-desktop-database -q "$prefix/share/applications" || true
fi
rm -rf "$target"
echo "LesionSeg was removed."

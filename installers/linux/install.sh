#!/bin/sh
# Install LesionSeg for the current user; PREFIX=/usr/local ./install.sh installs it for everybody.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=${PREFIX:-$HOME/.local}
target=$prefix/lib/lesionseg

if [ "$here" != "$target" ]; then
    rm -rf "$target.new"  # of an installation that did not get to its end
    mkdir -p "$prefix/lib"
    cp -R "$here" "$target.new"  # the old version stays until the new one is there
    rm -rf "$target"
    mv "$target.new" "$target"
fi
mkdir -p "$prefix/bin" "$prefix/share/applications" "$prefix/share/icons/hicolor/scalable/apps"
ln -sf "$target/lesionseg" "$prefix/bin/lesionseg"
cp "$target/lesionseg.svg" "$prefix/share/icons/hicolor/scalable/apps/lesionseg.svg"
sed "s|^Exec=lesionseg|Exec=\"$target/lesionseg\"|" "$target/lesionseg.desktop" >"$prefix/share/applications/lesionseg.desktop"
if command -v update-desktop-database >/dev/null; then
    update-desktop-database -q "$prefix/share/applications" || true
fi
echo "LesionSeg is in $target and in the menu of applications. Remove it with $target/uninstall.sh"

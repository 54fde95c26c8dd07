"""One line about each command of the project, so that listing them imports none of them."""

from __future__ import annotations

ONE_LINERS = {
    "admin": "Administer racks: tokens, approval, bans, enrollment.",
    "admin.enroll": "Enroll this rack with a one-time token (run on the rack).",
    "audit": "Read the audit, and verify that nobody changed it.",
    "config": "Show the effective configuration and where it comes from.",
    "keys": "Make and inspect a cluster's keys and certificates (works offline).",
    "lake": "Ask the lake of committed records: list, query, export, verify.",
    "listen": "Listen to a rack: play, record or just watch a monitor bus.",
    "meters": "Show the meters of any number of racks in the terminal.",
    "mixer": "Run the control plane.",
    "passport": "Look into a rack's passport.",
    "rack": "Run this machine as a rack; look after its journal.",
    "tail": "Follow what racks publish, and verify it.",
    "wasm": "Wasm modules: write, build, sign, verify and try them; import and assign them.",
    "wasm.sign": "Sign a module with a vendor's key.",
    "wasm.test": "Run a module on this machine in the rack's own host: timing, fuel, levels, records.",
}

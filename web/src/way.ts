// How one machine reaches another, in words.
import type { MeshLink } from './api/client';
import { ago, bytes } from './format';

export function way(link: MeshLink): string {
  const trip = link.round_trip_us;
  const parts = [
    `To ${link.name} ${link.path === 'direct' ? 'directly' : 'by the control plane'}`,
    ...(trip == null ? [] : [`${(trip / 1_000).toFixed(2)} ms`]),
    ...(link.handshake_age_ms == null ? [] : [`handshake ${ago(link.handshake_age_ms)}`]),
    `${bytes(link.received_bytes)} received, ${bytes(link.sent_bytes)} sent`,
  ];
  return parts.join(', ');
}

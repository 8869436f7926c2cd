// SPDX-License-Identifier: GPL-2.0-only
//
// A small door from Python into ns-3: two nodes, one link, UDP and TCP sockets with Python callbacks.
// It is compiled on the user's machine against an installed ns-3 (3.37 or newer), which is GPL-2.0-only; see NOTICE in this folder.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ns3/boolean.h"
#include "ns3/config.h"
#include "ns3/data-rate.h"
#include "ns3/double.h"
#include "ns3/error-model.h"
#include "ns3/inet-socket-address.h"
#include "ns3/internet-stack-helper.h"
#include "ns3/ipv4-address-helper.h"
#include "ns3/mac48-address.h"
#include "ns3/node-container.h"
#include "ns3/point-to-point-helper.h"
#include "ns3/pointer.h"
#include "ns3/queue-size.h"
#include "ns3/rng-seed-manager.h"
#include "ns3/simulator.h"
#include "ns3/socket.h"
#include "ns3/string.h"
#include "ns3/tcp-socket-factory.h"
#include "ns3/udp-socket-factory.h"
#include "ns3/uinteger.h"
#include "ns3/virtual-net-device.h"

namespace py = pybind11;

namespace {

using ns3::Address;
using ns3::Packet;
using ns3::Ptr;
using ns3::Seconds;
using ns3::Simulator;
using ns3::Socket;

using LinkFunction = std::function<std::optional<double>(int, double, uint32_t)>;
using ReceiveFunction = std::function<void(py::bytes)>;
using Action = std::function<void()>;

// An exception must not travel through ns-3's event loop. The first one is kept here, the loop is stopped, and run() rethrows it.
std::exception_ptr pending_error;

template <typename Call>
void keep_error(Call &&call)
{
    if (pending_error) {
        return;
    }
    try {
        call();
    } catch (...) {
        pending_error = std::current_exception();
        Simulator::Stop();
    }
}

// The release libraries do not check bounds: a wrong index would crash the interpreter.
int checked_node(int node)
{
    if (node != 0 && node != 1) {
        throw py::index_error("a world has node 0 and node 1");
    }
    return node;
}

class Endpoint
{
  public:
    Endpoint(Ptr<Socket> socket, ReceiveFunction receive) : m_socket(socket), m_receive(std::move(receive)) {}

    void Listen()
    {
        m_socket->Listen();
        m_socket->SetAcceptCallback(ns3::MakeNullCallback<bool, Ptr<Socket>, const Address &>(),
                                    ns3::MakeCallback(&Endpoint::OnAccept, this));
    }
    void Watch() { m_socket->SetRecvCallback(ns3::MakeCallback(&Endpoint::OnReceive, this)); }
    int Send(const std::string &data)
    {
        return m_socket->Send(reinterpret_cast<const uint8_t *>(data.data()), data.size(), 0);
    }

  private:
    void OnAccept(Ptr<Socket> socket, const Address &)
    {
        socket->SetRecvCallback(ns3::MakeCallback(&Endpoint::OnReceive, this));
    }
    void OnReceive(Ptr<Socket> socket)
    {
        while (Ptr<Packet> packet = socket->Recv()) {
            const uint32_t size = packet->GetSize();
            if (size == 0) {
                break;
            }
            std::string data(size, '\0');
            packet->CopyData(reinterpret_cast<uint8_t *>(data.data()), size);
            keep_error([&] {
                if (m_receive) {
                    m_receive(py::bytes(data));
                }
            });
        }
    }
    Ptr<Socket> m_socket;
    ReceiveFunction m_receive;
};

// The simulator is global to the process, so there is one World at a time.
class World
{
  public:
    // Two nodes joined by a link that Python defines: link(to_node, now_s, ip_bytes) -> arrival time, or None if lost.
    World(LinkFunction link, int mtu) : m_link(std::move(link))
    {
        Begin();
        for (int node = 0; node < 2; ++node) {
            auto device = ns3::CreateObject<ns3::VirtualNetDevice>();
            device->SetAddress(ns3::Mac48Address::Allocate());
            device->SetMtu(mtu);
            device->SetIsPointToPoint(true);
            device->SetNeedsArp(false);
            device->SetSendCallback(ns3::MakeCallback(node == 0 ? &World::SendFrom0 : &World::SendFrom1, this));
            m_nodes.Get(node)->AddDevice(device);
            m_devices.Add(device);
        }
        Finish();
    }

    // Two nodes joined by ns-3's own PointToPoint link; `lost` are the numbers of the packets that node 1 does not receive.
    World(double rate_bps, double delay_s, int queue_packets, std::list<uint32_t> lost)
    {
        Begin();
        ns3::PointToPointHelper helper;
        helper.SetDeviceAttribute("DataRate", ns3::DataRateValue(ns3::DataRate(static_cast<uint64_t>(rate_bps))));
        helper.SetChannelAttribute("Delay", ns3::TimeValue(Seconds(delay_s)));
        helper.SetQueue("ns3::DropTailQueue<Packet>", "MaxSize",
                        ns3::QueueSizeValue(ns3::QueueSize(ns3::PACKETS, queue_packets)));
        helper.DisableFlowControl();  // otherwise an fq_codel queue stands in front of the one asked for
        m_devices = helper.Install(m_nodes);
        auto errors = ns3::CreateObject<ns3::ReceiveListErrorModel>();
        errors->SetList(lost);
        m_devices.Get(1)->SetAttribute("ReceiveErrorModel", ns3::PointerValue(errors));
        Finish();
    }
    World(const World &) = delete;
    ~World() { Close(); }

    Endpoint *Udp(int node, uint16_t port, ReceiveFunction receive)
    {
        auto socket = NewSocket(node, ns3::UdpSocketFactory::GetTypeId());
        socket->Bind(ns3::InetSocketAddress(ns3::Ipv4Address::GetAny(), port));
        socket->Connect(ns3::InetSocketAddress(m_addresses.GetAddress(1 - node), port));
        return Keep(socket, std::move(receive), false);
    }
    Endpoint *TcpListen(int node, uint16_t port, ReceiveFunction receive)
    {
        auto socket = NewSocket(node, ns3::TcpSocketFactory::GetTypeId());
        socket->Bind(ns3::InetSocketAddress(ns3::Ipv4Address::GetAny(), port));
        return Keep(socket, std::move(receive), true);
    }
    Endpoint *TcpConnect(int node, uint16_t port, ReceiveFunction receive)
    {
        auto socket = NewSocket(node, ns3::TcpSocketFactory::GetTypeId());
        socket->Connect(ns3::InetSocketAddress(m_addresses.GetAddress(1 - node), port));
        return Keep(socket, std::move(receive), false);
    }
    void At(double when_s, Action action)
    {
        RequireOpen();
        const double wait_s = when_s - Now();
        if (std::isnan(wait_s)) {
            throw py::value_error("at(): the time is not a number");
        }
        Simulator::Schedule(Seconds(wait_s > 0 ? wait_s : 0), [action = std::move(action)] { keep_error(action); });
    }
    double Now() const { return Simulator::Now().GetSeconds(); }
    void Stop() { Simulator::Stop(); }
    void Run(double until_s)
    {
        RequireOpen();
        const auto left = Seconds(until_s) - Simulator::Now();
        if (left.IsPositive()) {
            auto end = Simulator::Schedule(left, [] { Simulator::Stop(); });
            Simulator::Run();
            end.Cancel();
        }
        if (pending_error) {
            auto error = std::exchange(pending_error, nullptr);
            Close();
            std::rethrow_exception(error);
        }
    }
    void Pcap(const std::string &prefix)
    {
        ns3::PointToPointHelper helper;
        helper.EnablePcap(prefix, m_devices, true);
    }
    void Close()
    {
        if (!m_is_open) {
            return;
        }
        m_is_open = false;
        Simulator::Destroy();
        m_endpoints.clear();
        m_devices = {};
        m_addresses = {};
        m_nodes = {};
        m_link = nullptr;
        is_taken = false;
    }

  private:
    void Begin()
    {
        if (is_taken) {
            throw std::runtime_error("ns-3 runs one network per process at a time: close the other one first");
        }
        is_taken = m_is_open = true;
        pending_error = nullptr;
        ns3::RngSeedManager::SetSeed(1);
        ns3::RngSeedManager::SetRun(1);
        m_nodes.Create(2);
    }
    void Finish()
    {
        ns3::InternetStackHelper stack;
        stack.SetIpv6StackInstall(false);
        stack.Install(m_nodes);
        // Automatic stream numbers go on counting from one world to the next; fixed ones make every run the same.
        stack.AssignStreams(m_nodes, 1000);
        ns3::Ipv4AddressHelper addresses("10.0.0.0", "255.255.255.0");
        m_addresses = addresses.Assign(m_devices);
    }
    void RequireOpen() const
    {
        if (!m_is_open) {
            throw std::runtime_error("this network is closed");
        }
    }
    Ptr<Socket> NewSocket(int node, ns3::TypeId kind)
    {
        RequireOpen();
        return Socket::CreateSocket(m_nodes.Get(checked_node(node)), kind);
    }
    Endpoint *Keep(Ptr<Socket> socket, ReceiveFunction receive, bool listen)
    {
        m_endpoints.push_back(std::make_unique<Endpoint>(socket, std::move(receive)));
        auto *endpoint = m_endpoints.back().get();
        if (listen) {
            endpoint->Listen();
        } else {
            endpoint->Watch();
        }
        return endpoint;
    }
    bool SendFrom0(Ptr<Packet> packet, const Address &, const Address &, uint16_t protocol) { return Carry(1, packet, protocol); }
    bool SendFrom1(Ptr<Packet> packet, const Address &, const Address &, uint16_t protocol) { return Carry(0, packet, protocol); }
    bool Carry(int to_node, Ptr<Packet> packet, uint16_t protocol)
    {
        keep_error([&] {
            const auto arrival_s = m_link(to_node, Now(), packet->GetSize());
            if (!arrival_s) {
                return;
            }
            const double wait_s = *arrival_s - Now();
            auto device = ns3::DynamicCast<ns3::VirtualNetDevice>(m_devices.Get(to_node));
            auto copy = packet->Copy();
            Simulator::ScheduleWithContext(
                m_nodes.Get(to_node)->GetId(), Seconds(wait_s > 0 ? wait_s : 0), [device, copy, protocol] {
                    device->Receive(copy, protocol, device->GetAddress(), device->GetAddress(), ns3::NetDevice::PACKET_HOST);
                });
        });
        return true;
    }

    static inline bool is_taken = false;
    bool m_is_open = false;
    LinkFunction m_link;
    ns3::NodeContainer m_nodes;
    ns3::NetDeviceContainer m_devices;
    ns3::Ipv4InterfaceContainer m_addresses;
    std::vector<std::unique_ptr<Endpoint>> m_endpoints;
};

}  // namespace

PYBIND11_MODULE(MODULE_NAME, module)
{
    module.attr("ns3_version") = NS3_RELEASE;
    module.def("set_default", [](const std::string &attribute, const std::string &value) {
        if (!ns3::Config::SetDefaultFailSafe(attribute, ns3::StringValue(value))) {
            throw py::value_error("ns-3 " NS3_RELEASE " has no attribute " + attribute + " that takes " + value);
        }
    });
    py::class_<Endpoint>(module, "Endpoint").def("send", [](Endpoint &endpoint, const py::bytes &data) {
        return endpoint.Send(std::string(data));
    });
    const auto owned = py::return_value_policy::reference_internal;
    py::class_<World>(module, "World")
        .def(py::init<LinkFunction, int>(), py::arg("link"), py::arg("mtu") = 1500)
        .def(py::init<double, double, int, std::list<uint32_t>>(), py::arg("rate_bps"), py::arg("delay_s"),
             py::arg("queue_packets"), py::arg("lost"))
        .def("udp", &World::Udp, owned)
        .def("tcp_listen", &World::TcpListen, owned)
        .def("tcp_connect", &World::TcpConnect, owned)
        .def("at", &World::At)
        .def("now", &World::Now)
        .def("stop", &World::Stop)
        .def("run", &World::Run)
        .def("pcap", &World::Pcap)
        .def("close", &World::Close);
}
